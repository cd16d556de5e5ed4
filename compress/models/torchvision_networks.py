"""Networks of torchvision, fresh or pretrained, always without auxiliary heads."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torchvision.models
from torch import nn
from torchvision.models import GoogLeNet, Inception3

from compress.models.head import reset_classifier
from compress.models.outputs import return_logits
from compress.runtime.errors import UserError, one_line

# The number of classes that pretrained classifiers distinguish.
IMAGENET_CLASSES = 1000
# The number of classes of networks that label pixels: those of PASCAL VOC, on photos of COCO.
VOC_CLASSES = 21

# Networks that normalize their input themselves where they are pretrained; here they do not.
OWN_NORMALIZATION = ("googlenet", "inception_v3")


def torchvision_names() -> list[str]:
    """Return the names of torchvision's networks that classify images or label pixels."""
    return [*torchvision.models.list_models(module=torchvision.models), *pixel_names()]


def pixel_names() -> list[str]:
    """Return the names of torchvision's networks that label pixels."""
    return list(torchvision.models.list_models(module=torchvision.models.segmentation))


def count_published_classes(name: str) -> int:
    """Return the number of classes that a network's published weights distinguish."""
    return VOC_CLASSES if name in pixel_names() else IMAGENET_CLASSES


def build_torchvision(name: str, num_classes: int, pretrained: bool | str = False) -> nn.Module:
    """Build a network of torchvision: images (B, 3, H, W) to logits (B, num_classes).

    Networks that label pixels return (B, num_classes, H, W).

    Args:
        pretrained: load the best weights, or those of this name. The classifier is replaced unless
            there are 1,000 classes, or 21 of pixels.

    Raises:
        UserError: there are no such weights, or they cannot be downloaded.
    """
    if pretrained:
        return _build_pretrained(name, pretrained, num_classes)
    options: dict[str, Any] = {}
    if name in OWN_NORMALIZATION:
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith(("resnet", "resnext", "wide_resnet")):
        # Goyal et al. 2017, arXiv:1706.02677: steadier first epochs.
        options = {"zero_init_residual": True}
    elif name in pixel_names():
        options = {"weights_backbone": None, "aux_loss": None}
        if name.startswith("lraspp"):
            del options["aux_loss"]
    builder = torchvision.models.get_model_builder(name)
    model: nn.Module = builder(num_classes=num_classes, weights=None, **options)
    return return_logits(model) if name in pixel_names() else model


def weights_normalization(
    name: str, pretrained: bool | str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation, by channel, of the images of some weights.

    Args:
        pretrained: True for the best weights of network `name`, or the weights' name.
    """
    offered = torchvision.models.get_model_weights(name)
    transforms = offered["DEFAULT" if pretrained is True else str(pretrained)].transforms()
    return tuple(transforms.mean), tuple(transforms.std)


class _HeldBack(io.TextIOBase):
    """Standard error, on which the announcement of a download waits for the next text."""

    def __init__(self) -> None:
        self.stream, self.waiting = sys.stderr, ""

    def write(self, text: str) -> int:
        if text.startswith("Downloading"):
            self.waiting += text
            return len(text)
        waiting, self.waiting = self.waiting, ""
        return self.stream.write(waiting + text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()


@contextmanager
def _announce_late() -> Iterator[None]:
    """Let torch announce a download once its bar appears, and not before it fails."""
    held = _HeldBack()
    with redirect_stdout(held), redirect_stderr(held):
        yield


def _build_pretrained(name: str, pretrained: bool | str, num_classes: int) -> nn.Module:
    offered = torchvision.models.get_model_weights(name).__members__
    weights = "DEFAULT" if pretrained is True else pretrained
    if weights not in offered:
        raise UserError(
            f"no pretrained weights {weights!r} of {name!r}; choose from {', '.join(offered)}"
        )
    try:
        with _announce_late():
            model: nn.Module = torchvision.models.get_model(name, weights=weights)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the pretrained weights of {name!r} cannot be downloaded: {one_line(error)}; start"
            " from weights of yours (--teacher FILE, --student FILE), or from a function that loads"
            " some (package.module:function)"
        ) from error
    if isinstance(model, GoogLeNet | Inception3):
        # Logits alone, of images normalized by the data set, as in a fresh network.
        model.transform_input = model.aux_logits = False
        model.AuxLogits = None
    if name in pixel_names():
        if hasattr(model, "aux_classifier"):
            model.register_module("aux_classifier", None)
        _reset_pixel_classifiers(model, num_classes)
        return return_logits(model)
    if num_classes != IMAGENET_CLASSES:
        reset_classifier(model, num_classes)
    return model


def _reset_pixel_classifiers(model: nn.Module, num_classes: int) -> None:
    """Replace the layers that output logits of pixels, of which LR-ASPP has two, in place."""
    for path, layer in list(model.named_modules()):
        last = isinstance(layer, nn.Conv2d) and layer.out_channels == VOC_CLASSES
        if last and num_classes != VOC_CLASSES:
            model.set_submodule(path, nn.Conv2d(layer.in_channels, num_classes, 1))
