"""Budgets on the size of a weights file.

A weights file holds more than tensors (names, widths, origin), and how much more depends on the
network. The limit on tensors is therefore found by writing the file and looking at its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from compress.models import checkpoint
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pruning.limits import resolve_limits
from compress.pruning.pruner import PruneOptions, prune_to_limits, prune_to_minimum
from compress.pruning.structure import add_latency
from compress.recipe.budget import Amount, Axis, Cost, Limits
from compress.runtime.errors import UserError

# Attempts to use more of the file than its limit on tensors guarantees.
MAX_ATTEMPTS = 8


def resolve_file_limits(
    budgets: Mapping[Axis, Amount],
    full: Cost,
    make_checkpoint: Callable[[], Checkpoint],
    reserve: int = 0,
) -> tuple[Limits, int | None]:
    """Resolve `budgets`, of which `bytes` is the size of the weights file.

    Args:
        full: cost of the unpruned network.
        make_checkpoint: returns the checkpoint that is written if the network stays unpruned. It is
            called if there is a budget in bytes; a percentage is one of its file.
        reserve: bytes of the file that must stay unused.

    Returns:
        Limits, in bytes the least that the file leaves to tensors; and the size of the file, or
        None.

    Raises:
        UserError: the file is smaller than that of the smallest network that pruning can reach.
    """
    if "bytes" not in budgets:
        return resolve_limits(budgets, full), None
    unpruned = make_checkpoint()
    file_size = budgets["bytes"].resolve(checkpoint.measure_file_bytes(unpruned))
    tensors = file_size - checkpoint.bound_overhead_bytes(unpruned)
    if tensors < full.bytes:
        model, lowest = prune_to_minimum(unpruned.model, torch.zeros(1, *unpruned.input_size))
        smallest = checkpoint.measure_file_bytes(replace(unpruned, model=model)) + reserve
        if file_size < smallest:
            raise UserError(
                f"a file of {budgets['bytes'].text} is out of reach; the smallest for this network"
                f" is {smallest:,} bytes"
            )
        # The overhead is an upper bound: that of the smallest network may be less.
        tensors = max(tensors, lowest.bytes)
    return replace(resolve_limits(budgets, full), bytes=tensors), file_size


def prune_to_file_size(
    model: nn.Module,
    example: Tensor,
    limits: Limits,
    free_bytes: Callable[[nn.Module], int] | None = None,
    options: PruneOptions | None = None,
    log: Callable[[str], None] = lambda line: None,
    enough: int | None = None,
) -> nn.Module:
    """Return a copy of `model` pruned to `limits` whose weights file uses all of the room it has.

    `limits.bytes` is a lower bound of what the file leaves to tensors. It is raised by the bytes
    that turn out to be free, as long as the file still fits.

    Args:
        free_bytes: returns the bytes that the file of a network leaves unused, negative if it
            exceeds its budget; None if there is no budget on the file.
        options, log: as for `prune_to_limits`.
        enough: bytes that may stay free. If given, `limits.bytes` is an estimate, which the file
            may exceed, and `free_bytes` is one of the bytes of tensors that its room stands for.

    Returns:
        The pruned copy, or `model` itself if its file and its other costs fit already.

    Raises:
        UserError: the limits are out of reach, or the model cannot be pruned.
    """
    if free_bytes is None:
        return prune_to_limits(model, example, limits, options, log)
    full = measure_cost(model, (example.shape[1], example.shape[2], example.shape[3]))
    full = add_latency(full, model, options.clock if options else None)
    if free_bytes(model) >= 0 and replace(limits, bytes=None).fits(full):
        return model

    def prune_to_bytes(max_bytes: int | None) -> tuple[nn.Module, list[str]]:
        lines: list[str] = []
        limits_now = replace(limits, bytes=max_bytes)
        return prune_to_limits(model, example, limits_now, options, lines.append), lines

    if enough is not None and limits.bytes is not None:
        best, lines, _ = search_bytes(limits.bytes, full.bytes, prune_to_bytes, free_bytes, enough)
        for line in lines:
            log(line)
        return best
    best, lines = prune_to_bytes(limits.bytes)
    if limits.bytes is not None:
        tried, free = limits.bytes, free_bytes(best)
        for attempt in range(MAX_ATTEMPTS):
            # The file of a wider network has more overhead; what exceeds the budget is taken back
            # in the next attempt.
            wider = max(min(tried + free, full.bytes - 1), limits.bytes)
            if wider == tried:
                break
            tried = wider
            pruned, new_lines = prune_to_bytes(wider)
            free = free_bytes(pruned)
            if free >= 0:
                best, lines = pruned, new_lines
                break
            # Widths go in steps: the next attempt may exceed the budget by as much again.
            free *= 2**attempt
    for line in lines:
        log(line)
    return best


def search_bytes(
    estimate: int,
    full_bytes: int,
    prune_to_bytes: Callable[[int], tuple[nn.Module, list[str]]],
    free_bytes: Callable[[nn.Module], int],
    enough: int,
) -> tuple[nn.Module, list[str], int]:
    """Search for the limit on tensors at which a file is just full.

    Args:
        estimate: where to begin.
        full_bytes: bytes of the unpruned network's tensors.
        prune_to_bytes: prunes to a limit on tensors.
        free_bytes: returns the bytes of tensors that a network's file has room for, roughly;
            negative if it exceeds its budget.
        enough: bytes that may stay free.

    Returns:
        The pruned network, its log lines, and the limit.

    Raises:
        UserError: no network was found whose file fits.
    """
    low, high, tried = 0, full_bytes, min(estimate, full_bytes - 1)
    best: tuple[nn.Module, list[str], int] | None = None
    for attempt in range(MAX_ATTEMPTS):
        model, lines = prune_to_bytes(tried)
        free = free_bytes(model)
        if free >= 0:
            best, low = (model, lines, tried), tried
            if free <= enough:
                break
        else:
            high = tried
            # Widths go in steps: a slightly lower limit may leave the same network.
            free = min(free, -enough // 8) * 2**attempt
        following = tried + free
        if not low < following < high:
            following = (low + high) // 2
        if following == tried:
            break
        tried = following
    if best is None:
        raise UserError("no network was found whose file fits; choose a larger one")
    return best
