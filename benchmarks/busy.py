"""How busy a GPU is, from a profiler's trace, for `speed.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.autograd import DeviceType


def kernels(events: Iterable[Any]) -> list[tuple[float, float]]:
    """When the kernels of a trace (`torch.profiler.profile.events`) began and ended, in µs.

    Copies, memory that is set, and names that programs give to a stretch of time are no kernels.
    """
    return [
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == DeviceType.CUDA
        and not event.name.startswith(("Memcpy", "Memset"))
        and not event.is_user_annotation
    ]


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """How much time lies within `intervals`: kernels that run side by side count once."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total
