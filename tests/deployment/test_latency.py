"""Latency, by a clock that the models themselves advance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.deployment.latency import WARMUP_RUNS, measure_latencies


class Clock:
    """A clock for `time.perf_counter`. It runs three times as fast while the machine is busy."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, 0

    def pass_time(self, seconds: float) -> None:
        self.calls += 1
        self.now += seconds * (3 if self.calls < 70 else 1)


class Timed(nn.Module):
    """A classifier that takes `seconds` for an image."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.head = nn.Linear(3, 2)
        self.shapes: list[torch.Size] = []

    def forward(self, images: Tensor) -> Tensor:
        self.clock.pass_time(self.seconds)
        self.shapes.append(images.shape)
        return self.head(images.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    return clock


def test_latency_is_the_median_of_single_images(clock: Clock) -> None:
    clock.calls = 1000
    model = Timed(clock, 0.25)
    assert measure_latencies([(model, (3, 4, 8))], runs=9) == [0.25]
    assert model.shapes == [torch.Size((1, 3, 4, 8))] * (WARMUP_RUNS + 9)


def test_busy_machine_slows_all_models_alike(clock: Clock) -> None:
    """The machine is busy for 70 of 110 images: more than all of one model."""
    first, second = Timed(clock, 0.25), Timed(clock, 0.5)
    one, other = measure_latencies([(first, (3, 4, 4)), (second, (3, 8, 8))])
    assert (one, other) == (0.75, 1.5)
