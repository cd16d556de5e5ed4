"""Utilization of a GPU, from a profiler's trace, for `speed.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.autograd import DeviceType


def kernels(events: Iterable[Any]) -> list[tuple[float, float]]:
    """Return the start and the end, in µs, of each kernel in a trace.

    A trace is what `torch.profiler.profile.events` returns. Copies, memory sets, and annotations of
    programs are not kernels.
    """
    return [
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == DeviceType.CUDA
        and not event.name.startswith(("Memcpy", "Memset"))
        and not event.is_user_annotation
    ]


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the total length of the union of `intervals`: overlapping kernels count once."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total
