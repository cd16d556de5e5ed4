"""Where the time of training goes, from a profiler's trace on a CPU, for `speed.py`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch

# Kinds of operations, and parts of their names in a trace.
KINDS = {
    "convolutions": ("convolution", "conv2d", "ConvolutionBackward"),
    "batch norms": ("batch_norm", "BatchNorm"),
    "activations": ("relu", "clamp_min", "threshold_backward"),
    "the optimizer": ("Optimizer.step",),
}
SIDE, PRODUCTS = 2048, 10


def shares(events: Iterable[Any]) -> dict[str, float]:
    """Return the percentage of the time that each kind of operation takes, as in `KINDS`.

    An operation within another counts as a part of that. The time is that of all operations.
    """
    kinds: Counter[str] = Counter()
    total = 0.0
    for event in events:
        if event.cpu_parent is None:
            total += event.cpu_time_total
        kind = _kind(event)
        if kind and not any(map(_kind, _ancestors(event))):
            kinds[kind] += event.cpu_time_total
    return {kind: 100 * kinds[kind] / total for kind in KINDS}


def _kind(event: Any) -> str | None:
    matches = (kind for kind, parts in KINDS.items() if any(part in event.name for part in parts))
    return next(matches, None)


def _ancestors(event: Any) -> Iterable[Any]:
    while (event := event.cpu_parent) is not None:
        yield event


def product_rate() -> float:
    """Return the multiply-adds a second of products of large square matrices in bfloat16."""
    one, other = torch.randn(2, SIDE, SIDE, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        one @ other
        best = min(best, time.perf_counter() - started)
    return float(SIDE**3 / best)
