"""One cut of a weights file, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from compress import checkpoint
from compress.budget import Amount, Axis, Count, Limits
from compress.checkpoint import Checkpoint
from compress.errors import UserError
from compress.plan import limits_of, params_alone
from compress.pruning.pruner import prune
from compress.pruning.weights import prune_weights
from compress.summary import count


def prune_file(
    kept: Checkpoint,
    budgets: Mapping[Axis, Amount],
    out: Path,
    *,
    mode: str = "channels",
    importance: str = "magnitude",
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Count, Count]:
    """Cut a network down to `budgets` once, without training, into the file `out`: its size before and after.

    Raises:
        UserError: the budgets are out of reach, or the importance needs data.
    """
    if kept.sparse and mode == "channels":
        raise UserError("this network is pruned weight by weight: only mode 'weights' goes on from there")
    before = count(kept.model, kept.input_size, kept.sparse)
    made = {"budget": " ".join(amount.text for amount in budgets.values()), "mode": mode, "importance": importance}
    kept = replace(kept, origin={**kept.origin, "pruned": made}, sparse=kept.sparse or mode == "weights")
    limits = limits_of(budgets, before, lambda: kept)
    if mode == "weights":
        done = replace(kept, model=prune_weights(kept.model, params_alone(limits), importance=importance))
    else:
        done, said = _cut(kept, limits, importance)
        for line in said:
            note(line)
    checkpoint.save(done, out)
    return before, count(done.model, kept.input_size, kept.sparse)


def _cut(kept: Checkpoint, limits: Limits, importance: str) -> tuple[Checkpoint, list[str]]:
    """Cut channels down to `limits`, and what is to be noted; a file's size is landed on by looking at the file."""

    def cut(bytes: int | None) -> tuple[Checkpoint, list[str]]:
        said: list[str] = []
        example = torch.zeros(1, *kept.input_size)
        pruned = prune(
            kept.model,
            example,
            limits.params,
            macs=limits.macs,
            bytes=bytes,
            importance=importance,
            note=said.append,
        )
        return replace(kept, model=pruned), said

    done = cut(limits.bytes)
    if limits.bytes is None:
        return done
    most = limits.bytes + checkpoint.overhead(kept)
    room = most - checkpoint.file_size(done[0])  # what is not tensors was reckoned at its most: they get the rest
    wider = (cut(limits.bytes + int(part * room)) for part in (1, 0.95, 0.9))
    return next((found for found in wider if checkpoint.file_size(found[0]) <= most), done)
