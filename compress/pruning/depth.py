"""Depth: residual blocks that go as a whole, where narrower layers would cost more.

For one image, the time of a narrow network is that of its layers, hardly of their channels. At the
same cost, a network with fewer blocks may keep wider ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.layers import remove_blocks, removed_blocks
from compress.runtime.errors import UserError
from compress.training.events import Events


def choose_blocks(
    model: nn.Module,
    example: Tensor,
    cut: Callable[[nn.Module], nn.Module],
    loss: Callable[[nn.Module], float],
    events: Events | None = None,
) -> nn.Module:
    """Return a copy of `model` without the blocks that are not worth their cost, before its cut.

    Each block is taken out alone, and what is left is cut to the target. The one without which the
    loss is lowest goes, and so on, as long as that is lower than with all that are left.

    Args:
        model: the network, which stays as it is.
        example: one batch of input, (B, C, H, W).
        cut: returns a network pruned to the target.
        loss: of a pruned network.
        events: receive progress, and a line for each block that goes.

    Raises:
        UserError: `model` cannot be cut to the target.
    """
    events, lowest = events or Events(), loss(cut(model))
    while True:
        found: list[tuple[float, str, nn.Module]] = []
        names = find_blocks(model, example)
        for name in events.progress(names, len(names), "blocks"):
            shorter = without_blocks(model, [name])
            # Without it, the rest may be out of reach.
            try:
                found.append((loss(cut(shorter)), name, shorter))
            except UserError:
                continue
        best = min(found, key=lambda each: each[0], default=None)
        if best is None or best[0] >= lowest:
            return model
        reached, name, _ = best
        events.log(f"  block {name} goes: a loss of {reached:.3f} after the cut, not {lowest:.3f}")
        lowest, _, model = best


def without_blocks(model: nn.Module, names: list[str]) -> nn.Module:
    """Return a copy of `model` without some of its blocks."""
    shorter = copy.deepcopy(model)
    remove_blocks(shorter, names)
    return shorter


def remove_the_same(original: nn.Module, model: nn.Module) -> nn.Module:
    """Return `original` without the blocks that `model`, which came from it, has lost."""
    kept = set(removed_blocks(original))
    gone = [name for name in removed_blocks(model) if name not in kept]
    return without_blocks(original, gone) if gone else original


@torch.no_grad()
def find_blocks(model: nn.Module, example: Tensor) -> list[str]:
    """Return the names of the residual blocks that could go.

    These are the innermost modules that keep the shape of their one input, and give it back, where
    it is not negative, if all of their weights are zero.

    Example:
        >>> find_blocks(torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64))
        ['layer1.0', 'layer1.1', 'layer2.1', 'layer3.1', 'layer4.1']
    """
    shapes = _record_shapes(model, example)
    found = [
        name
        for name, shape in shapes.items()
        if shape is not None and _is_residual(model.get_submodule(name), shape, example)
    ]
    return [name for name in found if not any(each.startswith(f"{name}.") for each in found)]


def _record_shapes(model: nn.Module, example: Tensor) -> dict[str, torch.Size | None]:
    """Return the shape that each module keeps, None for those that keep none or are run twice."""
    shapes: dict[str, torch.Size | None] = {}

    def watch(name: str) -> Callable[..., None]:
        def note(module: nn.Module, given: Any, named: Any, out: Any) -> None:
            single = len(given) == 1 and not named and isinstance(given[0], Tensor)
            kept = single and isinstance(out, Tensor) and out.shape == given[0].shape
            shapes[name] = out.shape if kept and name not in shapes else None

        return note

    hooks = [
        module.register_forward_hook(watch(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name and next(module.children(), None) and next(module.parameters(), None) is not None
    ]
    training = model.training
    try:
        model.eval()(example[:1])
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return shapes


def _is_residual(block: nn.Module, shape: torch.Size, example: Tensor) -> bool:
    silent = copy.deepcopy(block).eval()
    for parameter in silent.parameters():
        parameter.zero_()
    generator = torch.Generator().manual_seed(0)
    given = torch.rand(shape, generator=generator).to(example)
    return torch.equal(silent(given), given)
