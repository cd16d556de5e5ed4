"""Budgets on the size of a weights file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pruning_networks import build_network, count_bytes, count_params
from torch import nn

from compress.models import checkpoint
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pruning.file_size import prune_to_file_size, resolve_file_limits, search_bytes
from compress.pruning.pruner import PruneOptions, prune_to_limits, prune_to_minimum
from compress.recipe.budget import Limits, parse_amount
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError

INPUT_SIZE = (3, 32, 32)
EXAMPLE = torch.zeros(1, *INPUT_SIZE)


def make_checkpoint() -> Checkpoint:
    classes = tuple(f"class {i}" for i in range(10))
    model, spec = build_network("squeezenet1_1"), ModelSpec("squeezenet1_1")
    return Checkpoint(model, spec, classes, INPUT_SIZE, (0.5,) * 3, (0.5,) * 3, "made up")


def free_bytes_within(budget: int) -> Callable[[nn.Module], int]:
    source = make_checkpoint()
    return lambda model: budget - checkpoint.measure_file_bytes(replace(source, model=model))


def test_a_file_leaves_its_tensors_less_than_its_size() -> None:
    source = make_checkpoint()
    full = measure_cost(source.model, INPUT_SIZE)
    file = checkpoint.measure_file_bytes(source)
    budgets = {"params": parse_amount("50%"), "bytes": parse_amount("50%", "bytes")}
    limits, size = resolve_file_limits(budgets, full, lambda: source)
    assert size == file // 2
    assert limits.params == full.params // 2
    assert limits.bytes is not None
    assert 0 < limits.bytes < size
    # The overhead is an upper bound: the file of any network of that size fits.
    pruned = prune_to_limits(source.model, EXAMPLE, Limits(bytes=limits.bytes))
    assert checkpoint.measure_file_bytes(replace(source, model=pruned)) <= size


def test_without_a_budget_in_bytes_no_file_is_written() -> None:
    full = measure_cost(build_network("squeezenet1_1"), INPUT_SIZE)

    def fail() -> Checkpoint:
        raise AssertionError("a checkpoint was made")

    limits, size = resolve_file_limits({"macs": parse_amount("10%", "macs")}, full, fail)
    assert (limits, size) == (Limits(macs=full.macs // 10), None)


@pytest.mark.parametrize("reserve", [0, 256])
def test_the_smallest_file_named_in_the_message_is_within_reach(reserve: int) -> None:
    source = make_checkpoint()
    full = measure_cost(source.model, INPUT_SIZE)

    def resolve(size: int) -> tuple[Limits, int | None]:
        budgets = {"bytes": parse_amount(str(size), "bytes")}
        return resolve_file_limits(budgets, full, lambda: source, reserve)

    with pytest.raises(UserError, match=r"20000.*out of reach.* [\d,]+ bytes$") as caught:
        resolve(20_000)
    smallest = int(str(caught.value).split()[-2].replace(",", ""))
    limits, size = resolve(smallest)
    model, lowest = prune_to_minimum(source.model, EXAMPLE)
    assert (limits.bytes, size) == (lowest.bytes, smallest)
    assert checkpoint.measure_file_bytes(replace(source, model=model)) == smallest - reserve
    with pytest.raises(UserError, match="out of reach"):
        resolve(smallest - 1)


def test_the_room_that_the_overhead_leaves_is_used() -> None:
    """The limit on tensors alone would leave more than one per cent of this file empty."""
    source, budget = make_checkpoint(), 400_000
    tensors = budget - checkpoint.bound_overhead_bytes(source)
    free_bytes = free_bytes_within(budget)
    limits = Limits(bytes=tensors)
    cautious = prune_to_limits(source.model, EXAMPLE, limits)
    assert free_bytes(cautious) > 0.01 * budget
    pruned = prune_to_file_size(source.model, EXAMPLE, limits, free_bytes)
    assert 0 <= free_bytes(pruned) <= 0.01 * budget
    assert count_bytes(pruned) > count_bytes(cautious)


def test_another_limit_may_leave_room_in_the_file() -> None:
    model, budget = build_network("squeezenet1_1"), 1_000_000
    limits = Limits(params=50_000, bytes=900_000)
    pruned = prune_to_file_size(model, EXAMPLE, limits, free_bytes_within(budget))
    assert 0.99 * 50_000 <= count_params(pruned) <= 50_000


def test_a_model_whose_file_fits_is_returned_as_it_is() -> None:
    model, params = build_network("squeezenet1_1"), count_params(build_network("squeezenet1_1"))
    free_bytes = free_bytes_within(checkpoint.measure_file_bytes(make_checkpoint()))
    limits = Limits(params=params, bytes=100_000)
    assert prune_to_file_size(model, EXAMPLE, limits, free_bytes) is model
    # Its parameters do not fit.
    limits = Limits(params=params - 1, bytes=count_bytes(model) - 1)
    assert prune_to_file_size(model, EXAMPLE, limits, free_bytes) is not model


def test_without_a_budget_on_the_file_the_limits_decide_alone() -> None:
    model, options = build_network("squeezenet1_1"), PruneOptions("lamp", round_to=8)
    limits, lines = Limits(params=100_000), list[str]()
    ours = prune_to_file_size(model, EXAMPLE, limits, None, options, lines.append)
    plain = prune_to_limits(model, EXAMPLE, limits, options)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)
    assert lines == []


def test_only_the_lines_of_the_result_are_logged() -> None:
    """Every attempt leaves the same layer alone; that is logged once."""

    class Shuffled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3)
            self.head = nn.Linear(32, 7)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = self.a(images).relu().unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
            return self.head(self.b(x).relu().mean((2, 3)))  # type: ignore[no-any-return]

    model, attempts, lines = Shuffled().eval(), list[nn.Module](), list[str]()
    room = count_bytes(model) * 3 // 4

    def free_bytes(model: nn.Module) -> int:
        attempts.append(model)
        return room - count_bytes(model)

    limits = Limits(bytes=room * 3 // 4)
    pruned = prune_to_file_size(model, EXAMPLE, limits, free_bytes, log=lines.append)
    assert len(attempts) > 2
    assert count_bytes(pruned) > room * 3 // 4
    assert sum("channel groups: a" in line for line in lines) == 1


@given(st.integers(50, 4_000), st.integers(8_000, 60_000), st.integers(-4_000, 4_000))
@example(step=714, budget=20_701, off=640)
def test_a_network_is_found_although_widths_go_in_steps(step: int, budget: int, off: int) -> None:
    """A limit on tensors leaves whole steps; the first estimate is off."""
    full = 100_000

    def prune_to_bytes(limit: int) -> tuple[nn.Module, list[str]]:
        return nn.Threshold(limit // step * step, 0), []

    def free_bytes(model: nn.Module) -> int:
        assert isinstance(model, nn.Threshold)
        return int(budget - model.threshold)

    found, _, _ = search_bytes(budget + off, full, prune_to_bytes, free_bytes, budget // 10)
    assert free_bytes(found) >= 0
