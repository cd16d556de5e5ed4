"""The end of a network: pooling, and the layers that turn features into logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.runtime.errors import UserError

# A head is small; the limits also keep a weights file from asking for a huge one.
MAX_HIDDEN_LAYERS = 4
MAX_WIDTH = 4096


class ConcatPool(nn.Module):
    """Max-pooling and average-pooling side by side: features (B, C, H, W) to (B, 2C, 1, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the maximum and the mean of each channel."""
        return torch.cat(
            [F.adaptive_max_pool2d(features, 1), F.adaptive_avg_pool2d(features, 1)], dim=1
        )


def find_last_layer(model: nn.Module) -> tuple[str, Any]:
    """Return path and module of the layer that outputs the logits.

    It is the last linear layer, or else the last convolution.

    Raises:
        UserError: the network has neither.
    """
    layers = list(model.named_modules())
    for kind in (nn.Linear, nn.Conv2d):  # SqueezeNet ends in a convolution
        if found := [(path, module) for path, module in layers if isinstance(module, kind)]:
            return found[-1]
    raise UserError("the network has no linear layer or convolution to output logits")


def reset_classifier(model: nn.Module, classes: int) -> None:
    """Replace the last layer by a new one of the same kind with `classes` outputs, in place.

    Raises:
        UserError: the network has no such layer.
    """
    path, old = find_last_layer(model)
    linear = isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, classes) if linear else nn.Conv2d(old.in_channels, classes, 1)
    model.set_submodule(path, new)


def replace_head(
    model: nn.Module, hidden: tuple[int, ...], classes: int, inputs: int | None = None
) -> None:
    """Replace the last layer by a perceptron with ReLU between its layers, in place.

    Args:
        hidden: widths of the hidden layers; empty for a single linear layer.
        inputs: number of input features; that of the old layer if left out.

    Raises:
        UserError: `hidden` has too many or too large widths, or the last layer is not linear.
    """
    if len(hidden) > MAX_HIDDEN_LAYERS or not all(
        type(width) is int and 1 <= width <= MAX_WIDTH for width in hidden
    ):
        raise UserError(
            f"head {list(hidden)} must be at most {MAX_HIDDEN_LAYERS} widths of 1 to {MAX_WIDTH},"
            " as [256], or []"
        )
    path, old = find_last_layer(model)
    if not isinstance(old, nn.Linear):
        raise UserError(
            "`head` is for networks that end in a linear layer; this one ends in a convolution"
        )
    widths = (inputs or old.in_features, *hidden)
    layers: list[nn.Module] = []
    for features, width in zip(widths, hidden, strict=False):
        layers += [nn.Linear(features, width), nn.ReLU()]
    last = nn.Linear(widths[-1], classes)
    model.set_submodule(path, nn.Sequential(*layers, last) if layers else last)


def find_head(model: nn.Module) -> str:
    """Return the path of the head.

    It is the outermost module that holds the last layer but not all of the parameters: ``fc``,
    ``classifier``, ``head`` or ``heads`` in torchvision's networks.

    Raises:
        UserError: the network has no last layer.
    """
    path, _ = find_last_layer(model)
    parts, count = path.split("."), len(list(model.parameters()))
    outer = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return next(
        (part for part in outer if len(list(model.get_submodule(part).parameters())) < count), path
    )


def freeze_backbone(model: nn.Module) -> None:
    """Freeze all parameters outside the head, in place."""
    head = set(model.get_submodule(find_head(model)).parameters())
    for parameter in model.parameters():
        if parameter not in head:
            parameter.requires_grad_(False)
