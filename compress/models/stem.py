"""Stems for small images: first layers that keep more of the resolution."""

from __future__ import annotations

from torch import nn
from torchvision.models import EfficientNet, ResNet

from compress.recipe.model_spec import Stem


def has_stem(model: nn.Module) -> bool:
    """Return True if `model` is of a family that `replace_stem` supports."""
    return isinstance(model, ResNet | EfficientNet)


def replace_stem(model: nn.Module, stem: Stem) -> None:
    """Replace the first layers of `model`, in place.

    Args:
        model: a ResNet, ResNeXt or EfficientNet.
        stem: ``half`` or ``small``, a 3×3 convolution with stride 2 or 1; ``pool``, one with stride
            1 before the max-pooling; ``imagenet`` changes nothing.
    """
    if stem == "imagenet":
        return
    if isinstance(model, ResNet):
        channels = model.conv1.out_channels
        stride = 2 if stem == "half" else 1
        model.conv1 = nn.Conv2d(3, channels, kernel_size=3, stride=stride, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        if stem != "pool":
            model.maxpool = nn.Identity()
    elif isinstance(model, EfficientNet):
        # The first layer is 3×3 without pooling already, and keeps its weights.
        model.features[0][0].stride = (1, 1) if stem == "small" else (2, 2)
