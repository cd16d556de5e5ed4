"""Schedules: steps in an epoch, phases of an objective, and the learning rate."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


def count_steps(samples: int, batch_size: int) -> int:
    """Return the number of full batches in an epoch, at least 1.

    A data set smaller than a batch is one short batch.
    """
    return max(samples // batch_size, 1)


def learning_rate(peak: float, warmup: float, progress: float) -> float:
    """Return the learning rate at `progress`: a linear rise to `peak`, then a linear fall to zero.

    Args:
        warmup: fraction of the training in which the rate rises.
        progress: fraction of the training that is done, 0 to 1.
    """
    if progress < warmup:
        return peak * (progress / warmup)
    return peak * ((1 - progress) / max(1 - warmup, 1e-9))


def find_phase(progress: float, ends: Sequence[float]) -> tuple[int, float]:
    """Return the index of the phase at `progress`, and the progress within it, 0 to 1.

    Args:
        ends: the ends of the phases, as fractions of the training; the last is 1.
    """
    index = min(bisect_right(ends, progress), len(ends) - 1)
    start = ends[index - 1] if index else 0.0
    return index, (progress - start) / (ends[index] - start)
