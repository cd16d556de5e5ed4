"""Latency: a disturbance of the machine slows all models alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.deployment import latency
from compress.deployment.latency import WARMUP_RUNS, measure_latencies


class Clock:
    """Stands in for `time`: only the models let time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Slow(nn.Module):
    """Takes a millisecond, or five while other programs are busy; the first calls take longer."""

    def __init__(self, clock: Clock, calls: list[int], busy_calls: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.clock, self.calls, self.busy_calls = clock, calls, busy_calls

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        self.clock.now += 0.005 if len(self.calls) <= self.busy_calls else 0.001
        logits: Tensor = self.head(images.mean((2, 3)))
        return logits


@pytest.mark.parametrize(("busy_calls", "seconds"), [(70, 0.005), (30, 0.001)])
def test_models_take_turns(
    monkeypatch: pytest.MonkeyPatch, busy_calls: int, seconds: float
) -> None:
    clock, calls = Clock(), list[int]()
    monkeypatch.setattr(latency, "time", clock)
    models = [Slow(clock, calls, busy_calls) for _ in range(2)]
    measured = measure_latencies([(models[0], (3, 4, 4)), (models[1], (3, 8, 8))])
    assert measured == pytest.approx([seconds, seconds])
    assert calls == [1] * 2 * (50 + WARMUP_RUNS)
    assert not torch.is_inference_mode_enabled()
