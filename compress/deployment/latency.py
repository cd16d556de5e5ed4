"""Latency of models on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

# The first runs, in which caches fill, do not count.
WARMUP_RUNS = 5


@torch.inference_mode()
def measure_latencies(
    models: Sequence[tuple[nn.Module, tuple[int, int, int]]], runs: int = 50
) -> list[float]:
    """Measure how long each model takes for one image.

    The models take turns, image by image, so that other load on the machine slows them alike.

    Args:
        models: models in evaluation mode, each with its input size (C, H, W).
        runs: timed images per model.

    Returns:
        Median seconds per image, of each model.
    """

    def call(model: nn.Module, image: Tensor) -> Callable[[], object]:
        # Reading the result waits for the device.
        return lambda: model(image).argmax().item()

    calls = [
        call(model, torch.zeros(1, *size, device=next(model.parameters()).device))
        for model, size in models
    ]
    return [statistics.median(times) for times in time_in_turns(calls, runs)]


def time_in_turns(
    calls: Sequence[Callable[[], object]], runs: int, clock: Callable[[], float] | None = None
) -> list[list[float]]:
    """Return the seconds that each call takes in each of `runs` turns, after a warm-up.

    Args:
        clock: returns the time in seconds; `time.perf_counter` if left out.
    """
    now = clock or time.perf_counter
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(WARMUP_RUNS + runs):
        for call, times in zip(calls, seconds, strict=True):
            start = now()
            call()
            times.append(now() - start)
    return [times[WARMUP_RUNS:] for times in seconds]
