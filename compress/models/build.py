"""From a network's name to a module: the one place where networks are built."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable

import torchvision.models
from torch import nn
from torchvision.models import ResNet

from compress.errors import UserError, nearest
from compress.models.network import Network

Builder = Callable[..., nn.Module]


def names() -> list[str]:
    """The torchvision classification networks that can be asked for by name."""
    return torchvision.models.list_models(module=torchvision.models)  # type: ignore[no-any-return]


def build(network: Network, classes: int, own: Builder | None = None) -> nn.Module:
    """Build `network` with a fresh head for `classes` classes: images (B, 3, H, W) to logits (B, classes).

    `own` stands in for the function that a ``package.module:function`` name points to; without it the
    function is imported.

    Raises:
        UserError: the name is unknown, the stem does not suit the network, or weights cannot be downloaded.
    """
    if ":" in network.name:
        if network.pretrained or network.stem != "imagenet":
            raise UserError(f"network {network.name!r} is your own: it takes neither a stem nor `pretrained`")
        return (own or own_builder(network.name))(num_classes=classes)
    if network.name not in names():
        hint = nearest(network.name, names())
        raise UserError(f"unknown network {network.name!r}{hint}; any torchvision classification model will do")
    model = _pretrained(network.name, classes) if network.pretrained else _fresh(network.name, classes)
    if network.stem != "imagenet":
        if not isinstance(model, ResNet):
            raise UserError(f"stem {network.stem!r} is for residual networks, and {network.name!r} is not one")
        _small_stem(model, stride=1 if network.stem == "small" else 2)
    return model


def _fresh(name: str, classes: int) -> nn.Module:
    builder = torchvision.models.get_model_builder(name)
    options: dict[str, object] = {"num_classes": classes, "weights": None}
    if name in ("googlenet", "inception_v3"):  # logits alone, no auxiliary heads
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith(("resnet", "resnext", "wide_resnet")):
        options["zero_init_residual"] = True  # Goyal et al. 2017, arXiv:1706.02677: steadier first epochs
    return builder(**options)  # type: ignore[no-any-return]


def _pretrained(name: str, classes: int) -> nn.Module:
    try:
        model: nn.Module = torchvision.models.get_model(name, weights="DEFAULT")
    except (OSError, RuntimeError) as error:
        raise UserError(f"the pretrained weights of {name!r} cannot be downloaded: {error}") from error
    path, head = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Linear(head.in_features, classes))
    return model


def _small_stem(model: ResNet, stride: int) -> None:
    width = model.conv1.out_channels
    model.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def own_builder(name: str) -> Builder:
    """Import the function that a ``package.module:function`` name points to."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"network {name!r} cannot be imported: {error}") from error
    if not callable(found) or "num_classes" not in inspect.signature(found).parameters:
        raise UserError(f"network {name!r} must be a function that takes num_classes")
    return found  # type: ignore[no-any-return]
