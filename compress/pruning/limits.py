"""Budgets as limits: what a network has to fit into, as numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from compress.models import checkpoint
from compress.models.checkpoint import Checkpoint
from compress.pruning.pruner import narrowest
from compress.recipe.budget import Amount, Axis, Cost, Limits
from compress.runtime.errors import UserError


def limits_of(
    budgets: Mapping[Axis, Amount], whole: Cost, packed: Callable[[], Checkpoint], spare: int = 0
) -> tuple[Limits, int | None]:
    """Budgets as numbers, for a student of the size `whole`; of bytes, what the file of `packed` leaves to tensors at
    the least, and the whole file's, `spare` bytes of which stay empty. A share of bytes is one of the file as it is.

    Raises:
        UserError: the file is smaller than that of the narrowest network that pruning can reach.
    """
    numbers: dict[Axis, int] = {
        axis: amount.resolve(getattr(whole, axis)) for axis, amount in budgets.items()
    }
    file = None
    if "bytes" in budgets:
        full = packed()
        file = budgets["bytes"].resolve(checkpoint.measure_file_bytes(full))
        numbers["bytes"] = file - checkpoint.bound_overhead_bytes(full)
        if numbers["bytes"] < whole.bytes:
            narrow, lowest = narrowest(full.model, torch.zeros(1, *full.input_size))
            smallest = checkpoint.measure_file_bytes(replace(full, model=narrow)) + spare
            if file < smallest:
                raise UserError(
                    f"a file of {budgets['bytes'].text}: out of reach, the least is {smallest:,} bytes"
                )
            numbers["bytes"] = max(
                numbers["bytes"], lowest.bytes
            )  # what is not tensors may take less than reckoned
    return Limits(**numbers), file


def params_alone(limits: Limits) -> int:
    """The budget of pruning by weights."""
    if limits.params is None or len(limits.as_dict()) > 1:
        raise UserError(
            "mode 'weights' leaves the network's shape as it is: its budget is in parameters alone"
        )
    return limits.params
