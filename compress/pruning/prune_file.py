"""One cut of a weights file, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from compress.models import checkpoint
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pruning.file_size import prune_to_file_size, resolve_file_limits
from compress.pruning.latency import prune_to_latency
from compress.pruning.limits import require_params_only
from compress.pruning.pruner import PruneOptions, start_clock
from compress.pruning.structure import add_latency
from compress.pruning.unstructured import prune_weights
from compress.recipe.budget import Amount, Axis, Cost, Limits
from compress.runtime.errors import UserError


def prune_file(
    source: Checkpoint,
    budgets: Mapping[Axis, Amount],
    out: Path,
    *,
    mode: str = "channels",
    importance: str = "magnitude",
    runtime: str = "onnx",
    threads: int = 1,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Cost, Cost]:
    """Prune a network to `budgets` once, without training, and write it to the file `out`.

    The same checkpoint and budgets give the same network, with importance ``random`` too.

    Args:
        budgets: `bytes` is the size of the file; a percentage is one of the file of `source`.
        mode: ``channels`` or ``weights``.
        importance: one that needs no data.
        runtime, threads: where a budget on time is measured.
        log: called with each line worth showing.

    Returns:
        The cost before and after.

    Raises:
        UserError: the budgets are out of reach, or the importance needs data.
    """
    if source.sparse and mode == "channels":
        raise UserError("this network is pruned weight by weight; only mode 'weights' can go on")
    torch.manual_seed(0)
    before = measure_cost(source.model, source.input_size, source.sparse)
    # Resolve a percentage first: the origin below makes the file longer.
    if size := budgets.get("bytes"):
        number = size.resolve(checkpoint.measure_file_bytes(source))
        budgets = {**budgets, "bytes": replace(size, number=number)}
    pruned = {
        "budget": " ".join(amount.text for amount in budgets.values()),
        "mode": mode,
        "importance": importance,
    }
    unpruned = replace(
        source,
        origin={**source.origin, "pruned": pruned},
        sparse=source.sparse or mode == "weights",
        # It was fitted to the network before the cut.
        temperature=1.0,
    )
    clock = start_clock(source.model, source.input_size, budgets.get("latency"), runtime, threads)
    before = add_latency(before, source.model, clock)
    limits, file_size = resolve_file_limits(budgets, before, lambda: unpruned)

    def free_bytes(model: nn.Module) -> int:
        return (file_size or 0) - checkpoint.measure_file_bytes(replace(unpruned, model=model))

    if mode == "weights":
        model = prune_weights(source.model, require_params_only(limits), importance=importance)
    else:
        timed = None if limits.fits(before) else clock

        def cut(limits: Limits, log: Callable[[str], None]) -> nn.Module:
            return prune_to_file_size(
                source.model,
                torch.zeros(1, *source.input_size),
                limits,
                None if file_size is None else free_bytes,
                PruneOptions(importance, clock=clock),
                log,
            )

        model = prune_to_latency(source.model, limits, timed, cut, log)
        if model is source.model:
            raise UserError(f"nothing to prune: the file fits into {file_size:,} bytes already")
    done = replace(unpruned, model=model)
    checkpoint.save(done, out)
    after = measure_cost(model, source.input_size, done.sparse)
    return before, after if clock is None else replace(
        after, latency=round(clock.measure(model)[0])
    )
