"""Patience: how many epochs fit into the time that is there, by measuring this machine first."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from compress import processes
from compress.budget import Count, Limits
from compress.data.open import Data
from compress.distill.methods import listens
from compress.models.build import build
from compress.models.network import Network
from compress.recipe import Prune, Recipe, Stage, Train
from compress.stages import Given, Rehearsal, side
from compress.summary import count
from compress.watch import T, Watch

RESERVE = 0.02  # of a stage's time, so that the end is on time
WARM, STEPS, SECONDS = 2, 6, 2.0  # a rehearsal: steps that do not count, then at least so many steps and seconds


@dataclass(frozen=True)
class Pace:
    """What training takes on this machine, in seconds: a step, and the validation (with saving) after an epoch."""

    step: float
    check: float


def prices(stages: Sequence[tuple[Stage | Given, Limits | None]], recipe: Recipe, data: Data) -> list[float]:
    """What stages cost next to one another: epochs times multiply-adds of an image; 0 for one that does not train.

    The teacher's answers cost a forward pass, a third of a training step. A pruned student is taken to have lost
    multiply-adds as it lost parameters.

    Args:
        stages: all of a run, in order, each with what it prunes to (None if it does not).
    """

    def cost(network: Network, size: int) -> Count:
        with torch.random.fork_rng(devices=[]):
            return count(build(replace(network, pretrained=False), len(data.classes)), (3, size, size))

    found, answer, kept = [], 0.0, 1.0
    for stage, target in stages:
        own = cost(recipe.teacher if stage.kind == "teach" else recipe.student, side(stage, data))
        if stage.kind == "teach":
            answer = own.macs / 3
        if target is not None and isinstance(stage, Prune) and stage.mode == "channels":
            kept = 1 / target.use(cost(recipe.student, side(stages[-1][0], data)))
        if not isinstance(stage, Train):
            found.append(0.0)
        elif stage.kind == "teach":
            found.append(float(stage.epochs * own.macs))
        else:
            found.append(stage.epochs * (kept * own.macs + (answer if listens(stage) else 0.0)))
    return found


def share(left: float, prices: Sequence[float]) -> float:
    """Of the seconds `left`, those of the first of the stages that have these `prices`; it trains, so it has one."""
    return (1 - RESERVE) * left * prices[0] / sum(prices)


def fit(seconds: float, rehearse: Rehearsal, steps: int) -> float:
    """How many epochs of `steps` steps fit into `seconds`, from which the time to find it out is taken."""
    if seconds <= 0:
        return epochs_in(0, Pace(1, 1), steps)
    began = time.monotonic()
    pace = measure(rehearse, min(SECONDS, seconds / 10))
    return epochs_in(seconds - (time.monotonic() - began), pace, steps)


def epochs_in(seconds: float, pace: Pace, steps: int) -> float:
    """How many epochs of `steps` steps `seconds` are enough for: whole ones, then a part; a single step at the least.

    Every epoch ends with a validation, a short one too, and a stage ends with another.
    """
    whole, rest = divmod(max(seconds - pace.check, 0), steps * pace.step + pace.check)
    part = max(rest - pace.check, 0) / (steps * pace.step)
    return float(f"{max(whole + part, 1 / steps):.4g}")  # as many digits as a person reads


def measure(rehearse: Rehearsal, seconds: float) -> Pace:
    """The pace of the training that `rehearse` does, watched for `seconds` and some steps. It leaves no trace."""
    stopwatch = _Stopwatch(seconds)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]), suppress(_Enough):
        rehearse(stopwatch, Path(folder))
    timed = stopwatch.steps[WARM:]  # what comes before waits for compilation and cold caches
    return Pace(sum(timed) / len(timed), sum(stopwatch.checks) / len(stopwatch.checks))


class _Enough(Exception):
    """Ends a rehearsal."""


class _Stopwatch(Watch):
    """Takes the time of every step and every validation, and ends the training when it has seen enough."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.steps: list[float] = []
        self.checks: list[float] = []
        self._last = 0.0

    def track(self, batches: Iterable[T], total: int, label: str) -> Iterator[T]:
        self._lap()
        for batch in batches:
            yield batch
            self.steps.append(self._lap())
            if self._enough():
                return

    def epoch(self, epochs: float, history: list[dict[str, float]]) -> None:
        self.checks.append(self._lap())
        if self._enough():
            raise _Enough

    def _enough(self) -> bool:
        enough = len(self.steps) >= WARM + STEPS and sum(self.steps[WARM:]) >= self.seconds
        return processes.of_first(enough)  # all of them stop at one step

    def _lap(self) -> float:
        """Seconds since it was last asked."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a GPU is given work long before it does it
        last, self._last = self._last, time.monotonic()
        return self._last - last
