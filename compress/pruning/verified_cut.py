"""Verified cuts: what torch-pruning gets wrong is found, and left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from compress.pruning.clock import Clock
from compress.pruning.snapshot import take_snapshot
from compress.pruning.structure import Structure, UnresolvedGroupError
from compress.runtime.errors import UserError


def cut_verified(
    model: nn.Module,
    example: Tensor,
    choose_units: Callable[[Structure], list[Tensor]],
    ignored_layers: tuple[str, ...] = (),
    clock: Clock | None = None,
) -> tuple[Structure, list[int], bool]:
    """Prune a copy of `model` to the units that `choose_units` returns, and verify the cut.

    Groups that turn out to be unresolved are excluded, and units are chosen again.

    Args:
        example: one batch of input, (B, C, H, W).
        choose_units: returns the indices of the units that each group of a structure keeps.
        ignored_layers, clock: as for `Structure`.

    Returns:
        The structure of the pruned copy, the number of units that each group keeps, and True if the
        logits were verified.

    Raises:
        UserError: every group is unresolved, or only several together are.
    """
    unresolved: list[str] = []
    while True:
        structure = Structure(copy.deepcopy(model), example, ignored_layers, unresolved, clock)
        chosen = choose_units(structure)
        try:
            return structure, [len(units) for units in chosen], structure.prune(chosen)
        except UnresolvedGroupError:
            unresolved += _find_unresolved_groups(model, structure, chosen)


def _find_unresolved_groups(model: nn.Module, failed: Structure, chosen: list[Tensor]) -> list[str]:
    """Find the groups that torch-pruning gets wrong, as where channels are shuffled.

    The failed cut is bisected: each half of the groups is pruned alone, down to single groups.

    Args:
        model: the unpruned model.
        failed: its structure, whose cut to `chosen` failed.
        chosen: units that each group keeps; see `Structure.prune`.

    Returns:
        Names of the groups.

    Raises:
        UserError: every group is wrong, or only several together are.
    """

    structure = Structure(
        copy.deepcopy(model), failed.example, failed.ignored_layers, failed.unresolved_groups
    )
    restore = take_snapshot(structure.model, structure.graph)

    def find_among(suspects: list[str]) -> list[str]:
        kept = [
            units if group.name in suspects else torch.arange(len(group))
            for group, units in zip(structure.groups, chosen, strict=True)
        ]
        try:
            structure.prune(kept)
            return []
        except UnresolvedGroupError as failure:
            error = failure
        finally:
            restore()
        if len(suspects) == 1:
            return suspects
        half = len(suspects) // 2
        found = [*find_among(suspects[:half]), *find_among(suspects[half:])]
        if not found:
            raise UserError(
                "this network cannot be pruned: layers"
                f" {', '.join(suspects)} fail only together ({error})"
            ) from error
        return found

    names = [group.name for group in failed.groups]
    found = find_among(names)
    if len(found) == len(names):
        raise UserError(
            "this network cannot be pruned: torch-pruning cannot resolve the channel groups of"
            f" {', '.join(names[:3])}"
        )
    return found
