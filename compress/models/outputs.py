"""The logits among what a network returns.

Some networks return more than logits: a tuple, a dict or a dataclass, with the logits of auxiliary
heads, a loss or features beside them, always or only in training.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from compress.runtime.errors import UserError

# The key or field of the logits, as libraries call it; and as people do, of a tensor (B, C). Else
# they are the first of these.
NAMES, LIKELY = ("logits", "out", "output"), ("pred", "preds")


def find_logits(output: Any, classes: int | None = None) -> Tensor:
    """Return the logits in the output of a network.

    Args:
        output: the logits, or a tuple, list, mapping or dataclass that holds them: under one of
            `NAMES` or `LIKELY`, or as its first tensor of two dimensions.
        classes: number of classes, if known; then tensors of as many columns come first.

    Raises:
        UserError: there are none.

    Example:
        >>> find_logits((torch.zeros(1, 10), torch.zeros(1, 3))).shape
        torch.Size([1, 10])
        >>> find_logits((torch.zeros(1, 10), torch.zeros(1, 3)), classes=3).shape
        torch.Size([1, 3])
    """
    if isinstance(output, Tensor):
        return output
    rows = [tensor for tensor in list_tensors(output) if tensor.dim() == 2]
    fitting = [tensor for tensor in rows if tensor.shape[1] == classes]
    named = dict(_named_parts(output))
    for name in NAMES:
        found = named.get(name)
        if isinstance(found, Tensor) and (not fitting or found.shape[1:2] == (classes,)):
            return found
    if not rows:
        raise UserError(f"the network returns {type(output).__name__}, with no logits in it")
    likely = [row for row in rows if any(named.get(name) is row for name in LIKELY)]
    return (fitting or likely or rows)[0]


def describe_choice(model: nn.Module, images: Tensor) -> str:
    """Say which output of a network counts as its logits, where that is not clear.

    Returns:
        A line; empty where it is clear.
    """
    hook = _find_hook(model)
    if hook and hook.classes is not None:
        return ""
    with torch.no_grad():
        output = run_unreduced(copy.deepcopy(model).eval(), images)
    rows = [tensor for tensor in list_tensors(output) if tensor.dim() == 2]
    named = {name for name, _ in _named_parts(output)}
    if len({tensor.shape[1] for tensor in rows}) < 2 or not named.isdisjoint(NAMES + LIKELY):
        return ""
    columns = " and ".join(str(tensor.shape[1]) for tensor in rows)
    return (
        f"the model returns tensors of {columns} columns; the first counts as its logits: if the"
        " logits are another one, let the model return them first"
    )


def list_tensors(output: Any) -> list[Tensor]:
    """Return all tensors in the output of a network, in order."""
    if isinstance(output, Tensor):
        return [output]
    return [tensor for _, part in _named_parts(output) for tensor in list_tensors(part)]


def suggest_flatten(shape: object) -> str:
    """Say what keeps the dimension of a batch of one image, if the output's shape has lost it."""
    lost = isinstance(shape, tuple) and len(shape) == 1
    return "; let it call flatten(1) instead of squeeze()" if lost else ""


def refuse_probabilities(model: nn.Module, input_size: tuple[int, int, int], what: str) -> None:
    """Check that a network does not return probabilities, which losses would take for logits.

    A network that does not run on such images passes.

    Args:
        input_size: (C, H, W) of its images.
        what: the network, in messages.

    Raises:
        UserError: it ends in a softmax or a sigmoid.
    """
    last = _find_activation(model, input_size)
    if last:
        raise UserError(
            f"{what} returns probabilities: it ends in a {last}; let it return the logits, without"
            f" the {last}"
        )


@torch.enable_grad()
def _find_activation(model: nn.Module, input_size: tuple[int, int, int]) -> str:
    device = next((parameter.device for parameter in model.parameters()), None)
    images = torch.rand(4, *input_size, generator=torch.Generator().manual_seed(0)).to(device)
    # A network may raise anything; other checks say why.
    with suppress(Exception):
        outputs = find_logits(model.eval()(images.requires_grad_(True)))
        if type(outputs.grad_fn).__name__.startswith("Sigmoid"):
            return "sigmoid"
        rows = outputs.detach().double()
        sums = bool(((rows.sum(1) - 1).abs() < 1e-3).all())
        return "softmax" if sums and rows.shape[1] > 1 and bool((rows >= 0).all()) else ""
    return ""


def return_logits(model: nn.Module, classes: int | None = None) -> nn.Module:
    """Make `model` return its logits alone, in place; its names and tensors stay as they are.

    Args:
        classes: number of classes, if known.
    """
    hook = _find_hook(model)
    if hook is None:
        model.register_forward_hook(_KeepLogits(classes))
    elif classes is not None:
        hook.classes = classes
    return model


def return_all(model: nn.Module) -> nn.Module:
    """Undo `return_logits`, in place."""
    for number, hook in [*model._forward_hooks.items()]:
        if isinstance(hook, _KeepLogits):
            del model._forward_hooks[number]
    return model


def returns_logits_alone(model: nn.Module) -> bool:
    """Return True if `return_logits` was called."""
    return _find_hook(model) is not None


def run_unreduced(model: nn.Module, images: Tensor) -> Any:
    """Return all that `model` returns for `images`, whether or not `return_logits` was called."""
    return model.forward(images) if returns_logits_alone(model) else model(images)


def keep_logits(model: nn.Module, output: Any) -> Tensor:
    """Return the logits in what `run_unreduced` returned."""
    hook = _find_hook(model)
    return find_logits(output, hook.classes if hook else None)


class _KeepLogits:
    """The hook of `return_logits`."""

    def __init__(self, classes: int | None) -> None:
        self.classes = classes

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Tensor:
        return find_logits(output, self.classes)


def _find_hook(model: nn.Module) -> _KeepLogits | None:
    hooks = model._forward_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, _KeepLogits)), None)


def _named_parts(output: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(output, Mapping):
        return [(str(key), part) for key, part in output.items()]
    if dataclasses.is_dataclass(output):
        return [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    if isinstance(output, tuple | list):
        return zip(getattr(output, "_fields", map(str, range(len(output)))), output, strict=True)
    return []
