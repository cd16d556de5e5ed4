"""One cut of a weights file, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from compress.models import checkpoint
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pruning.file_size import prune_to
from compress.pruning.limits import limits_of, params_alone
from compress.pruning.unstructured import prune_weights
from compress.recipe.budget import Amount, Axis, Cost
from compress.runtime.errors import UserError


def prune_file(
    kept: Checkpoint,
    budgets: Mapping[Axis, Amount],
    out: Path,
    *,
    mode: str = "channels",
    importance: str = "magnitude",
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Cost, Cost]:
    """Cut a network down to `budgets` once, without training, into the file `out`: its size before and after.

    The same file and budgets give the same network, by importance ``random`` too.

    Raises:
        UserError: the budgets are out of reach, or the importance needs data.
    """
    if kept.sparse and mode == "channels":
        raise UserError(
            "this network is pruned weight by weight: only mode 'weights' goes on from there"
        )
    torch.manual_seed(0)
    before = measure_cost(kept.model, kept.input_size, kept.sparse)
    if size := budgets.get(
        "bytes"
    ):  # a share is one of the file as it is, before it tells of this cut
        budgets = {
            **budgets,
            "bytes": replace(size, number=size.resolve(checkpoint.measure_file_bytes(kept))),
        }
    made = {
        "budget": " ".join(amount.text for amount in budgets.values()),
        "mode": mode,
        "importance": importance,
    }
    kept = replace(
        kept, origin={**kept.origin, "pruned": made}, sparse=kept.sparse or mode == "weights"
    )
    limits, file = limits_of(budgets, before, lambda: kept)
    if mode == "weights":
        done = replace(
            kept, model=prune_weights(kept.model, params_alone(limits), importance=importance)
        )
    else:
        example = torch.zeros(1, *kept.input_size)
        room = (
            None
            if file is None
            else lambda model: file - checkpoint.measure_file_bytes(replace(kept, model=model))
        )
        pruned = prune_to(kept.model, example, limits, room=room, importance=importance, note=note)
        if pruned is kept.model:
            raise UserError(f"nothing to prune: the file fits into {file:,} bytes as it is")
        done = replace(kept, model=pruned)
    checkpoint.save(done, out)
    return before, measure_cost(done.model, kept.input_size, kept.sparse)
