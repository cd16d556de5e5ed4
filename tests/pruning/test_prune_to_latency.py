"""Budgets on time, by timers whose times are known functions of a network's widths."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_networks import build_from_blocks, list_out_channels
from torch import nn

from compress.deployment.layer_graph import Layer
from compress.deployment.measurements import Measurements
from compress.pruning.clock import Clock, interpolate, sum_layers
from compress.pruning.latency import make_clock, prune_to_latency
from compress.pruning.pruner import PruneOptions, prune_to_limits, prune_to_minimum
from compress.recipe.budget import Amount, Limits, parse_amount, parse_speedup
from compress.runtime.errors import UserError

SIZE = (3, 16, 16)


class BlockTimer:
    """A processor that computes channels in blocks of 16, and is `slower` than layers say."""

    def __init__(self, slower: float = 1.0) -> None:
        self.slower, self.known, self.asked = slower, dict[str, float](), 0

    def layer(self, layer: Layer, outs: int, ins: int) -> float:
        blocks = -(-outs // 16) * (ins if ins % 8 == 0 or ins < 8 else 2 * ins)
        return 100.0 + blocks * layer.height * layer.width

    def networks(
        self, networks: Sequence[nn.Module], input_size: tuple[int, int, int]
    ) -> list[list[float]]:
        self.asked += 1
        times = [sum_layers(self, each, input_size) for each in networks]
        # The machine is busy in every third turn, for all networks alike.
        return [
            [(1 + 5 * (turn % 3 == 2)) * (5e-6 + 1e-9 * time**self.slower) for turn in range(9)]
            for time in times
        ]

    def keep(self, key: str, measure: Callable[[], float]) -> float:
        if key not in self.known:
            self.known[key] = measure()
        return self.known[key]


def network() -> nn.Module:
    return build_from_blocks(["plain", "residual", "depthwise", "plain"], width=48)


def start(budget: Amount, timer: BlockTimer | None = None) -> Clock:
    model, example = network(), torch.zeros(1, *SIZE)
    return make_clock(
        model, prune_to_minimum(model, example)[0], SIZE, budget, timer or BlockTimer()
    )


def prune_in_time(clock: Clock, limits: Limits | None = None, **options: object) -> nn.Module:
    limits = limits or Limits(latency=clock.limit)

    def cut(limits: Limits, log: Callable[[str], None]) -> nn.Module:
        chosen = PruneOptions(clock=clock, **options)  # type: ignore[arg-type]
        return prune_to_limits(clock.uncut, torch.zeros(1, *SIZE), limits, chosen, log)

    return prune_to_latency(clock.uncut, limits, clock, cut)


@pytest.mark.slow
@given(st.integers(20, 90), st.sampled_from([0.9, 1.0, 1.1]))
@settings(max_examples=5, deadline=None)
def test_a_cut_lands_within_its_time(percent: int, slower: float) -> None:
    """However wrong predictions are between the uncut and the smallest network."""
    clock = start(parse_amount("50%", "latency"), BlockTimer(slower))
    wanted = clock.least + (clock.full - clock.least) * percent / 100
    clock = start(Amount("", number=int(wanted)), BlockTimer(slower))
    time, usage = clock.measure(prune_in_time(clock))
    assert time <= wanted and 0.75 <= usage <= 1


def test_prediction_is_right_for_the_uncut_and_the_smallest_network() -> None:
    clock = start(parse_speedup("2x"), BlockTimer(1.1))
    smallest, _ = prune_to_minimum(clock.uncut, torch.zeros(1, *SIZE))
    for model, measured in ((clock.uncut, clock.full), (smallest, clock.least)):
        assert clock.predict(model) == pytest.approx(measured, rel=1e-4)
    pruned = prune_in_time(clock)
    assert clock.least < clock.predict(pruned) < clock.full


def test_widths_are_those_that_the_processor_is_fast_at() -> None:
    clock = start(parse_speedup("2x"))
    assert all(width % 8 == 0 or width <= 8 for width in list_out_channels(prune_in_time(clock)))


def test_a_speedup_is_a_ratio_of_turns() -> None:
    """The whole machine may be slower than when the uncut network was timed first."""
    clock = start(parse_speedup("2x"))
    pruned = prune_in_time(clock)
    uncut, times = clock.timer.networks([clock.uncut, pruned], SIZE)
    assert all(2 * time <= other for time, other in zip(times, uncut, strict=True))


def test_other_budgets_hold_as_well() -> None:
    clock = start(parse_amount("60%", "latency"))
    pruned = prune_in_time(clock, Limits(params=20_000, latency=clock.limit))
    assert sum(p.numel() for p in pruned.parameters()) <= 20_000
    assert clock.measure(pruned)[1] <= 1


def test_both_a_latency_and_a_speedup_are_kept() -> None:
    base = start(parse_speedup("2x"))
    for number in (base.full / 4, base.full):
        clock = start(Amount("", int(number), Fraction(1, 2)))
        time, _ = clock.measure(prune_in_time(clock))
        assert time <= min(number, base.full / 2)


def test_a_time_that_no_cut_reaches_is_refused() -> None:
    class Stuck(BlockTimer):
        def networks(
            self, networks: Sequence[nn.Module], input_size: tuple[int, int, int]
        ) -> list[list[float]]:
            found = super().networks(networks, input_size)
            return found if self.asked == 1 else [[1.0] for _ in networks]

    clock = start(parse_speedup("2x"), Stuck())
    with pytest.raises(UserError, match=r"latency: .*1000 ms.*2x"):
        prune_in_time(clock)


@given(st.integers(1, 600), st.integers(1, 600))
def test_times_between_two_widths_are_between_their_times(outs: int, ins: int) -> None:
    class Product(BlockTimer):
        def layer(self, layer: Layer, outs: int, ins: int) -> float:
            return float(outs * ins)

    found = interpolate(Product(), Layer(4, 4, (3, 3), (1, 1), (1, 1), (1, 1)), outs, ins)
    assert found == pytest.approx(outs * ins)


def test_measurements_are_kept_and_damage_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "times.jsonl"
    assert Measurements(file).get("a", lambda: 2.5) == 2.5
    with file.open("a") as lines:
        lines.write('["b", -1.0]\n["c", "x"]\n[1]\n\x00\xff\n["d", NaN]\n["e", 4.')
    kept = Measurements(file)
    assert kept.get("a", lambda: 9.0) == 2.5
    assert [kept.get(key, lambda: 7.0) for key in "bcde"] == [7.0] * 4
    assert Measurements(file).get("e", lambda: 9.0) == 7.0
    written = [json.loads(line) for line in file.read_text().splitlines()[-4:] if line]
    assert written[-1][:2] == ["e", 7.0]
    # A folder that cannot be written keeps nothing, and stops nothing.
    blocked = tmp_path / "file"
    blocked.touch()
    assert Measurements(blocked / "x").get("a", lambda: 3.0) == 3.0
