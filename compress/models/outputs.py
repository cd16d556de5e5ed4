"""The logits among what a network returns.

Some networks return more than logits: a tuple, a dict or a dataclass, with the logits of auxiliary
heads, a loss or features beside them, always or only in training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from compress.runtime.errors import UserError

# The key or field of the logits, as libraries call it; else they are the first tensor (B, C).
NAMES = ("logits", "out", "output")


def find_logits(output: Any) -> Tensor:
    """Return the logits in the output of a network.

    Args:
        output: the logits, or a tuple, list, mapping or dataclass that holds them: under one of
            `NAMES`, or as its first tensor of two dimensions.

    Raises:
        UserError: there are none.

    Example:
        >>> find_logits((torch.zeros(1, 10), torch.zeros(1, 3))).shape
        torch.Size([1, 10])
    """
    if isinstance(output, Tensor):
        return output
    named = dict(_named_parts(output))
    for name in NAMES:
        if isinstance(named.get(name), Tensor):
            return named[name]  # type: ignore[no-any-return]
    tensors = list_tensors(output)
    found = next((tensor for tensor in tensors if tensor.dim() == 2), None)
    if found is None:
        raise UserError(f"the network returns {type(output).__name__}, with no logits in it")
    return found


def list_tensors(output: Any) -> list[Tensor]:
    """Return all tensors in the output of a network, in order."""
    if isinstance(output, Tensor):
        return [output]
    return [tensor for _, part in _named_parts(output) for tensor in list_tensors(part)]


def return_logits(model: nn.Module) -> nn.Module:
    """Make `model` return its logits alone, in place; its names and tensors stay as they are."""
    if not returns_logits_alone(model):
        model.register_forward_hook(_keep_logits)
    return model


def return_all(model: nn.Module) -> nn.Module:
    """Undo `return_logits`, in place."""
    for number, hook in [*model._forward_hooks.items()]:
        if hook is _keep_logits:
            del model._forward_hooks[number]
    return model


def returns_logits_alone(model: nn.Module) -> bool:
    """Return True if `return_logits` was called."""
    return _keep_logits in model._forward_hooks.values()


def run_unreduced(model: nn.Module, images: Tensor) -> Any:
    """Return all that `model` returns for `images`, whether or not `return_logits` was called."""
    return model.forward(images) if returns_logits_alone(model) else model(images)


def _keep_logits(module: nn.Module, inputs: Any, output: Any) -> Any:
    return output if isinstance(output, Tensor) else find_logits(output)


def _named_parts(output: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(output, Mapping):
        return [(str(key), part) for key, part in output.items()]
    if dataclasses.is_dataclass(output):
        return [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    if isinstance(output, tuple | list):
        return zip(getattr(output, "_fields", map(str, range(len(output)))), output, strict=True)
    return []
