"""The end of a network: how its features are pooled, and the layers that make logits of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.runtime.errors import UserError

MOST_LAYERS, WIDEST = (
    4,
    4096,
)  # of hidden layers: a head is small, and so a weights file cannot ask for a huge one


class ConcatPool(nn.Module):
    """Max-pool and average-pool side by side: features (B, C, H, W) to (B, 2C, 1, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        """The largest and the mean value of each channel."""
        return torch.cat(
            [F.adaptive_max_pool2d(features, 1), F.adaptive_avg_pool2d(features, 1)], dim=1
        )


def last_layer(model: nn.Module) -> tuple[str, Any]:
    """Path and module of the layer that puts out the logits: the last linear one, or else the last convolution.

    Raises:
        UserError: the network has neither.
    """
    layers = list(model.named_modules())
    for kind in (nn.Linear, nn.Conv2d):  # SqueezeNet's is a convolution
        if found := [(path, module) for path, module in layers if isinstance(module, kind)]:
            return found[-1]
    raise UserError("this network has no layer that could put out logits")


def reset_classifier(model: nn.Module, classes: int) -> None:
    """Put a new layer of the same kind, for `classes` classes, in the place of the last one."""
    path, old = last_layer(model)
    linear = isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, classes) if linear else nn.Conv2d(old.in_channels, classes, 1)
    model.set_submodule(path, new)


def replace_head(
    model: nn.Module, hidden: tuple[int, ...], classes: int, inputs: int | None = None
) -> None:
    """Put a perceptron in the place of the last layer: ReLU between its layers, `hidden` widths, `classes` logits.

    Args:
        inputs: the features it reads; as many as the old layer did if left out.

    Raises:
        UserError: `hidden` is no list of widths, or the last layer is not a linear one.
    """
    if len(hidden) > MOST_LAYERS or not all(
        type(width) is int and 1 <= width <= WIDEST for width in hidden
    ):
        raise UserError(
            f"head {list(hidden)} must be at most {MOST_LAYERS} widths of 1 to {WIDEST}, as [256], or []"
        )
    path, old = last_layer(model)
    if not isinstance(old, nn.Linear):
        raise UserError(
            "`head` is for networks that end in a linear layer, and this one ends in a convolution"
        )
    widths = (inputs or old.in_features, *hidden)
    layers: list[nn.Module] = []
    for before, after in zip(widths, hidden, strict=False):
        layers += [nn.Linear(before, after), nn.ReLU()]
    last = nn.Linear(widths[-1], classes)
    model.set_submodule(path, nn.Sequential(*layers, last) if layers else last)


def head_of(model: nn.Module) -> str:
    """Where the head of `model` is: the outermost part that holds its last layer and not all the others.

    That is ``fc``, ``classifier``, ``head`` or ``heads`` in torchvision's networks.

    Raises:
        UserError: the network has no last layer.
    """
    path, _ = last_layer(model)
    parts, count = path.split("."), len(list(model.parameters()))
    outer = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return next(
        (part for part in outer if len(list(model.get_submodule(part).parameters())) < count), path
    )


def freeze_backbone(model: nn.Module) -> None:
    """Let only the head learn."""
    head = set(model.get_submodule(head_of(model)).parameters())
    for parameter in model.parameters():
        if parameter not in head:
            parameter.requires_grad_(False)
