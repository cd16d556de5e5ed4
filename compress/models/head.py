"""The end of a network: pooling, and the layers that turn features into logits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.models.outputs import find_logits
from compress.runtime.errors import UserError

# A head is small; the limits also keep a weights file from asking for a huge one.
MAX_HIDDEN_LAYERS = 4
MAX_WIDTH = 4096
# (C, H, W) of images on which a network is tried whose images are not known.
TRIED_SIZES = [(3, 32, 32), (3, 64, 64), (3, 224, 224), (1, 28, 28)]


class ConcatPool(nn.Module):
    """Max-pooling and average-pooling side by side: features (B, C, H, W) to (B, 2C, 1, 1)."""

    def forward(self, features: Tensor) -> Tensor:
        """Return the maximum and the mean of each channel."""
        return torch.cat(
            [F.adaptive_max_pool2d(features, 1), F.adaptive_avg_pool2d(features, 1)], dim=1
        )


def find_last_layer(model: nn.Module) -> tuple[str, Any]:
    """Return path and module of the last linear layer, or else of the last convolution.

    The last one is the one registered last: in most networks, it outputs the logits.

    Raises:
        UserError: the network has neither.
    """
    layers = list(model.named_modules())
    for kind in (nn.Linear, nn.Conv2d):  # SqueezeNet ends in a convolution
        if found := [(path, module) for path, module in layers if isinstance(module, kind)]:
            return found[-1]
    raise UserError("the network has no linear layer or convolution to output logits")


def reset_classifier(model: nn.Module, classes: int, path: str | None = None) -> None:
    """Replace the last layer by a new one of the same kind with `classes` outputs, in place.

    Args:
        path: of the layer; `find_last_layer` finds it if left out.

    Raises:
        UserError: the network has no such layer.
    """
    if path is None:
        path, _ = find_last_layer(model)
    old: Any = model.get_submodule(path)
    linear = isinstance(old, nn.Linear)
    new = nn.Linear(old.in_features, classes) if linear else nn.Conv2d(old.in_channels, classes, 1)
    model.set_submodule(path, new)


def find_other_head(
    model: nn.Module, classes: int, input_size: tuple[int, int, int] | None = None
) -> str | None:
    """Return the path of the layer that outputs the logits, if they are of other classes.

    The network is run: layers need not be registered in the order in which they run. If it does not
    run, it is the last registered linear layer, unless one has as many outputs as classes.

    Args:
        input_size: (C, H, W) of its images; common sizes are tried if left out.
    """
    linear = {p: m.out_features for p, m in model.named_modules() if isinstance(m, nn.Linear)}
    if linear and [*linear.values()][-1] == classes:
        return None
    ran = _run_layers(model, classes, [input_size] if input_size else TRIED_SIZES)
    if ran is not None:
        return None if ran.logits == classes else ran.last
    if any(parameter.is_meta for parameter in model.parameters()):
        # It may run with values.
        raise NotImplementedError("this network does not run without values")
    return None if classes in linear.values() else next(reversed(linear), None)


@dataclass(frozen=True)
class _Ran:
    """A network that was run: the number of its logits, and the path of the layer of so many."""

    logits: int
    last: str | None


def _run_layers(
    model: nn.Module, classes: int | None, sizes: Sequence[tuple[int, int, int]]
) -> _Ran | None:
    """Run a network on images of the first size that it takes; None if it takes none."""
    for size in sizes:
        # A network may raise anything.
        with suppress(Exception):
            logits, outputs = _list_outputs(model, classes, size)
            return _Ran(logits, next((p for p, n in reversed(outputs) if n == logits), None))
    return None


@torch.no_grad()
def _list_outputs(
    model: nn.Module, classes: int | None, size: tuple[int, int, int]
) -> tuple[int, list[tuple[str, int]]]:
    """Return the number of logits; and the paths of the layers that can output logits, as they run.

    These are linear layers and 1×1 convolutions, each with the number of its outputs.
    """
    ran: list[tuple[str, int]] = []

    def note(path: str, count: int) -> Any:
        return lambda *_: ran.append((path, count))

    hooks = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            hooks.append(module.register_forward_hook(note(path, module.out_features)))
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            hooks.append(module.register_forward_hook(note(path, module.out_channels)))
    training = model.training
    try:
        images = torch.zeros(1, *size, device=next(model.parameters()).device)
        return find_logits(model.eval()(images), classes).shape[1], ran
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()


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
    ``classifier``, ``head`` or ``heads`` in torchvision's networks. The last layer is the one that
    outputs the logits; if the network does not run on images of common sizes, the one that is
    registered last.

    Raises:
        UserError: the network has no last layer.
    """
    ran = _run_layers(model, None, TRIED_SIZES)
    path = (ran and ran.last) or find_last_layer(model)[0]
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
