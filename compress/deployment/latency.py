"""Latency of models on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn

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
    images = [
        torch.zeros(1, *size, device=next(model.parameters()).device) for model, size in models
    ]
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(WARMUP_RUNS + runs):
        for (model, _), image, times in zip(models, images, seconds, strict=True):
            start = time.perf_counter()
            # Reading the result waits for the device.
            model(image).argmax().item()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[WARMUP_RUNS:]) for times in seconds]
