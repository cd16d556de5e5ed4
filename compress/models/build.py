"""From a network's name to a module: the one place where networks are built."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
import torchvision.models
from torch import nn
from torchvision.models import EfficientNet, GoogLeNet, Inception3, ResNet

from compress.models.head import ConcatPool, last_layer, replace_head, reset_classifier
from compress.models.zoo import ADDITIONS, CONCAT, CONCAT_HIDDEN, WITH_CONCAT
from compress.recipe.model_spec import ModelSpec, Stem
from compress.runtime.errors import UserError, did_you_mean, one_line

Builder = Callable[..., nn.Module]
IMAGENET_CLASSES = 1000  # what pretrained weights tell apart


def names() -> list[str]:
    """The classification networks that can be asked for by name: torchvision's, and `compress.models.zoo`."""
    return [*torchvision.models.list_models(module=torchvision.models), *ADDITIONS, *WITH_CONCAT]


def build(network: ModelSpec, classes: int, own: Builder | None = None) -> nn.Module:
    """Build `network` for `classes` classes: images (B, 3, H, W) to logits (B, classes).

    Its head is fresh, unless `knows` says that it comes trained.
    `own` stands in for the function that a ``package.module:function`` name points to; without it the
    function is imported.

    Raises:
        UserError: the name is unknown, the stem or the head does not suit the network, or weights cannot be had.
    """
    if network.stem not in get_args(Stem):
        raise UserError(
            f"unknown stem {network.stem!r}{did_you_mean(str(network.stem), get_args(Stem))}"
        )
    if network.source == "custom":
        if network.pretrained or network.stem != "imagenet" or network.head is not None:
            raise UserError(
                f"network {network.name!r} is your own: it takes neither a stem nor a head nor `pretrained`"
            )
        return (own or import_builder(network.name))(num_classes=classes)
    if network.name not in names():
        hint = did_you_mean(network.name, names())
        raise UserError(
            f"unknown network {network.name!r}{hint}; any torchvision classification model will do"
        )
    name = network.name.removesuffix(CONCAT)
    model = (
        _pretrained(name, network.pretrained, classes)
        if network.pretrained
        else _fresh(name, classes)
    )
    if network.stem != "imagenet":
        _small_stem(model, network)
    if network.name in WITH_CONCAT:
        model.avgpool = ConcatPool()
        hidden = CONCAT_HIDDEN if network.head is None else network.head
        replace_head(model, hidden, classes, inputs=2 * last_layer(model)[1].in_features)
    elif network.head is not None:
        replace_head(model, network.head, classes)
    return model


def skeleton(network: ModelSpec, classes: int, own: Builder | None = None) -> nn.Module:
    """`network` as `build` builds it, never pretrained, on the meta device: all its shapes and no values."""
    network = replace(network, pretrained=False)
    try:
        with torch.device("meta"):
            return build(network, classes, own)
    except NotImplementedError:  # a network that works its widths out with tensors, as RegNet does
        with torch.random.fork_rng(devices=[]):
            return build(network, classes, own).to("meta")


def has_pretrained_head(network: ModelSpec, classes: int) -> bool:
    """Whether `network` answers for `classes` classes without more training: all of it is pretrained, head too."""
    own = network.stem == "imagenet" and network.head is None and network.name not in WITH_CONCAT
    normal = network.name not in (
        "googlenet",
        "inception_v3",
    )  # theirs is another normalization, which is taken out
    return bool(network.pretrained) and own and normal and classes == IMAGENET_CLASSES


def normalization(network: ModelSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the images that the pretrained weights of `network` learned from, by channel."""
    offered = torchvision.models.get_model_weights(network.name)
    seen = offered[
        "DEFAULT" if network.pretrained is True else str(network.pretrained)
    ].transforms()
    return tuple(seen.mean), tuple(seen.std)


def _fresh(name: str, classes: int) -> nn.Module:
    if name in ADDITIONS:
        return ADDITIONS[name](num_classes=classes)
    builder = torchvision.models.get_model_builder(name)
    options: dict[str, object] = {"num_classes": classes, "weights": None}
    if name in ("googlenet", "inception_v3"):  # logits alone, no auxiliary heads
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith(("resnet", "resnext", "wide_resnet")):
        options["zero_init_residual"] = (
            True  # Goyal et al. 2017, arXiv:1706.02677: steadier first epochs
        )
    return builder(**options)  # type: ignore[no-any-return]


def _pretrained(name: str, which: bool | str, classes: int) -> nn.Module:
    if name in ADDITIONS:
        raise UserError(
            f"nobody offers pretrained weights of {name!r}: leave `pretrained` out, or take resnet18"
        )
    offered = torchvision.models.get_model_weights(name).__members__
    if (which := "DEFAULT" if which is True else which) not in offered:
        raise UserError(
            f"no pretrained weights {which!r} of {name!r}: there are {', '.join(offered)}"
        )
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=which)
    except (OSError, RuntimeError) as error:
        reason = one_line(error)
        raise UserError(
            f"the pretrained weights of {name!r} cannot be downloaded: {reason}"
        ) from error
    if isinstance(
        model, GoogLeNet | Inception3
    ):  # as `_fresh` builds them: logits alone, of images as they come
        model.transform_input = model.aux_logits = False
        model.AuxLogits = None
    if classes != IMAGENET_CLASSES:
        reset_classifier(model, classes)
    return model


def _small_stem(model: nn.Module, network: ModelSpec) -> None:
    stride = 1 if network.stem == "small" else 2
    if isinstance(model, ResNet):
        model.conv1 = nn.Conv2d(
            3, model.conv1.out_channels, kernel_size=3, stride=stride, padding=1, bias=False
        )
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    elif isinstance(model, EfficientNet):  # its stem is 3×3 without pooling already
        model.features[0][0].stride = (stride, stride)
    else:
        raise UserError(
            f"stem {network.stem!r} is for ResNets and EfficientNets, and {network.name!r} is neither"
        )


def import_builder(name: str) -> Builder:
    """Import the function that a ``package.module:function`` name points to: installed, or in this folder."""
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script looks only where it is installed
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # the person's module may fail in any way
        reason = one_line(error)
        raise UserError(f"network {name!r} cannot be imported: {reason}") from error
    if not callable(found) or "num_classes" not in _parameters(found):
        raise UserError(f"network {name!r} must be a function that takes num_classes")
    return found  # type: ignore[no-any-return]


def _parameters(function: Builder) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except ValueError:  # built-in functions have no signature
        return ()
