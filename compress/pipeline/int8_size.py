"""Budgets on the size of the int8 file that a last stage `quantize` writes.

An int8 file is written to be measured: weights take one byte, biases and scales four, and names
and operators depend on the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from compress.data.dataset import Dataset
from compress.deployment.export import describe_versions
from compress.deployment.formats import get_format
from compress.models.checkpoint import Checkpoint
from compress.pipeline.provenance import largest_checkpoint
from compress.pipeline.step import Step
from compress.pruning.file_size import search_bytes
from compress.pruning.limits import resolve_limits
from compress.pruning.pruner import prune_to_limits, prune_to_minimum
from compress.quantization.quantize import measure_int8_bytes
from compress.recipe.budget import Amount, Axis, Cost, Limits
from compress.recipe.schema import Recipe
from compress.runtime.errors import UserError

# Bytes of float32 tensors that a byte of an int8 file stands for, about.
FLOAT_BYTES = 4
# Fraction of the file that may stay free.
FREE = 0.005


def int8_checkpoint(
    recipe: Recipe, steps: Sequence[Step], data: Dataset, model: nn.Module
) -> Checkpoint:
    """Return a checkpoint of `model` whose int8 file is as large as it can become."""
    largest = largest_checkpoint(recipe, steps, data, model)
    longest = (0.12345678901234568,) * len(largest.mean)
    origin = {"data_checksum": "0" * 64}
    return replace(largest, mean=longest, std=longest, origin=origin)


def measure_int8_file(checkpoint: Checkpoint) -> int:
    """Return the size of the int8 file that a run would write, in bytes."""
    return measure_int8_bytes(checkpoint, describe_versions(checkpoint, get_format("onnx")))


def free_tensor_bytes(checkpoint: Checkpoint, file_size: int) -> int:
    """Return the bytes of tensors that an int8 file of `file_size` has room for, roughly."""
    return FLOAT_BYTES * (file_size - measure_int8_file(checkpoint))


def resolve_int8_limits(
    budgets: Mapping[Axis, Amount], full: Cost, unpruned: Checkpoint, reserve: int
) -> tuple[Limits, int | None]:
    """Resolve `budgets`, of which `bytes` is the size of the int8 file.

    Args:
        full: cost of the unpruned network.
        unpruned: the checkpoint that is quantized if the network stays unpruned.
        reserve: bytes of the file that must stay unused.

    Returns:
        Limits, in bytes an estimate of the tensors that fill the file; and the size of the file,
        or None.

    Raises:
        UserError: the file is smaller than that of the smallest network that pruning can reach.
    """
    if "bytes" not in budgets:
        return resolve_limits(budgets, full), None
    unpruned_bytes = measure_int8_file(unpruned)
    file_size = budgets["bytes"].resolve(unpruned_bytes)
    limits = resolve_limits(budgets, full)
    if unpruned_bytes + reserve <= file_size:
        return replace(limits, bytes=full.bytes), file_size
    example = torch.zeros(1, *unpruned.input_size)
    smallest = prune_to_minimum(unpruned.model, example)[0]
    least = measure_int8_file(replace(unpruned, model=smallest)) + reserve
    if file_size < least:
        raise UserError(
            f"an int8 file of {budgets['bytes'].text} is out of reach; the smallest for this"
            f" network is {least:,} bytes"
        )

    def prune_to_bytes(tensors: int) -> tuple[nn.Module, list[str]]:
        return prune_to_limits(unpruned.model, example, Limits(bytes=tensors)), []

    def free(model: nn.Module) -> int:
        return free_tensor_bytes(replace(unpruned, model=model), file_size - reserve)

    estimate = FLOAT_BYTES * (file_size - least // 2)
    # A tenth of the file is near enough: the last cut searches again.
    found = search_bytes(estimate, full.bytes, prune_to_bytes, free, FLOAT_BYTES * file_size // 10)
    return replace(limits, bytes=found[2]), file_size
