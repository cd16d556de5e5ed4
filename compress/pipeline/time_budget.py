"""Patience: how many epochs fit into the time that is there, and whether to compile, as measured here."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from compress.distillation.methods import asked_epochs
from compress.models.build import build
from compress.models.cost import measure_cost
from compress.pipeline.context import Given, Rehearsal, Rehearsals, side
from compress.pipeline.plan import Plan
from compress.recipe.budget import Cost
from compress.recipe.schema import Prune, Train
from compress.runtime import distributed
from compress.runtime.errors import one_line
from compress.training.events import Events, T

RESERVE = 0.02  # of a stage's time, so that the end is on time
LEAST = 0.02  # of the time left, for any stage: with less, finding its pace is all that a short one does
HARDLY = (
    20  # steps: fewer, with a rate that rises and falls within them, do a trained network no good
)
WARM, STEPS, SECONDS = (
    2,
    6,
    2.0,
)  # a rehearsal: steps that do not count, then at least so many steps and seconds
FEW, SHORT = 1000, 120.0  # steps and seconds of training: with less, the compiler is not even tried


@dataclass(frozen=True)
class Pace:
    """What training takes on this machine, in seconds: a step, the validation (with saving) after an epoch, and what
    the first steps take beyond their share: caches fill, networks compile."""

    step: float
    check: float
    start: float = 0.0


def prices(plan: Plan) -> list[float]:
    """What a run's stages cost next to one another: epochs times multiply-adds of an image; 0 without training.

    A guide's answers cost a forward pass, a third of a training step; one that may be outgrown is taken to be. A step
    of a pruned student is taken to shrink as the root of what the tightest of its budgets leaves.
    """
    recipe, data = plan.recipe, plan.data

    given = {
        step.stage.kind: step.stage.checkpoint.model
        for step in plan.steps
        if isinstance(step.stage, Given)
    }

    @cache
    def cost(kind: Literal["teach", "distill"], size: int) -> Cost:
        if kind in given:
            return measure_cost(given[kind], (3, size, size))
        network = recipe.teacher if kind == "teach" else recipe.student
        with torch.random.fork_rng(devices=[]):
            return measure_cost(
                build(replace(network, pretrained=False), len(data.classes)), (3, size, size)
            )

    found, kept = [], 1.0
    forward: dict[str, float] = {}  # what an image costs the networks that steps come to
    for step in plan.steps:
        stage = step.stage
        if isinstance(stage, Prune):
            if step.target is not None and stage.mode == "channels":
                kept = math.sqrt(
                    1 / step.target.usage(cost("distill", side(plan.steps[-1].stage, data)))
                )
            found.append(0.0)
            continue
        own = cost("teach" if stage.kind == "teach" else "distill", side(stage, data))
        forward[step.name] = kept * own.macs
        price = 0.0
        if isinstance(stage, Train):
            guide = plan.guide(step)
            price = stage.epochs * forward[step.name]
            if guide and not stage.stop_at_teacher:
                asked = asked_epochs(stage, len(data.train), len(data.classes))
                price += min(asked, stage.epochs) * forward[guide.name] / 3
        found.append(price)
    return found


def share(left: float, prices: Sequence[float]) -> float:
    """Of the seconds `left`, those of the first of the stages that have these `prices`; it trains, so it has one."""
    return (1 - RESERVE) * left * max(LEAST, prices[0] / sum(prices))


def fit(seconds: float, rehearsals: Rehearsals, steps: int, asked: float = math.inf) -> float:
    """How many epochs of `steps` steps fit into `seconds`, from which the time to find it out is taken: 0 if not one
    step does. Several processes come to the same.

    Args:
        rehearsals: of an epoch in which a guide answers, and of one whose answers are kept.
        asked: after how many epochs all answers are kept. A guide that is outgrown sooner leaves time over.
    """
    if seconds <= 0:
        return 0.0
    until = time.monotonic() + seconds
    long = min(max(SECONDS, seconds / 100), seconds / 10)

    def paced(kept: bool) -> tuple[Pace, float]:
        pace = measure(rehearsals(kept), long)
        return distributed.broadcast((pace, until - time.monotonic() - pace.start))

    pace, left = paced(False)
    epochs = epochs_in(left, pace, steps)
    if epochs <= asked:
        return epochs
    later, left = paced(True)
    return asked + epochs_in(left - asked * (steps * pace.step + pace.check), later, steps)


def epochs_in(seconds: float, pace: Pace, steps: int) -> float:
    """How many epochs of `steps` steps `seconds` are enough for: whole ones, then a part; 0 for less than a step.

    Every epoch ends with a validation, a short one too, and a stage ends with another.
    """
    whole, rest = divmod(max(seconds - pace.check, 0), steps * pace.step + pace.check)
    part = max(rest - pace.check, 0) / (steps * pace.step)
    epochs = whole + part
    return (
        float(f"{epochs:.4g}") if epochs * steps >= 1 else 0.0
    )  # as many digits as a person reads


def worthwhile(epochs: float, steps: int, learned: bool) -> float:
    """`epochs` of `steps` steps, or what to do where they are next to none: nothing, with a network that has `learned`
    already and would only be unsettled; one step, with one that is new or newly cut."""
    if learned:
        return epochs if epochs * steps >= HARDLY else 0.0
    return max(epochs, float(f"{1 / steps:.4g}"))


def pays(rehearsals: Rehearsals, steps: float, seconds: float, note: Callable[[str], None]) -> bool:
    """Whether a training is over sooner if it is compiled, the compiler's time included.

    Args:
        steps, seconds: how long it is to go on: until the first of the two is over.
        note: is told what was measured.
    """
    if steps < FEW or seconds < SHORT:
        return False
    plain = _watched(rehearsals(False), SECONDS, checks=False).step
    steps = min(steps, seconds / plain)
    if steps < FEW or steps * plain < SHORT:
        return False
    try:
        watched = _watched(rehearsals(True), SECONDS, checks=False)
    except Exception as error:  # whatever the compiler may raise, it cannot do this network
        note(f"  not compiled: {one_line(error)}")
        return False
    better = watched.start + steps * watched.step < steps * plain
    times = f"{plain / watched.step:.2g} times as fast, {watched.start:.0f} s to compile"
    note(f"  compiled: {times}" if better else f"  not compiled: {times}")
    return better


def measure(rehearse: Rehearsal, seconds: float) -> Pace:
    """The pace of the training that `rehearse` does, watched for `seconds` and some steps. It leaves no trace."""
    watched = _watched(rehearse, seconds)
    return Pace(watched.step, sum(watched.checks) / len(watched.checks), watched.start)


def _watched(rehearse: Rehearsal, seconds: float, checks: bool = True) -> _Stopwatch:
    stopwatch = _Stopwatch(seconds, checks)
    with (
        tempfile.TemporaryDirectory() as folder,
        torch.random.fork_rng(devices=[]),
        suppress(_Enough),
    ):
        rehearse(stopwatch, Path(folder))
    return stopwatch


class _Enough(Exception):
    """Ends a rehearsal."""


class _Stopwatch(Events):
    """Takes the time of every step and every validation, and ends the training when it has seen enough: with a
    validation if `checks`, else at once."""

    def __init__(self, seconds: float, checks: bool) -> None:
        self.seconds, self._checked = seconds, checks
        self.steps: list[float] = []
        self.checks: list[float] = []
        self._last = 0.0

    @property
    def step(self) -> float:
        """Seconds of a step, those left out that wait for compilation and cold caches."""
        return sum(self.steps[WARM:]) / len(self.steps[WARM:])

    @property
    def start(self) -> float:
        """Seconds that those left out took beyond their share."""
        return max(sum(self.steps[:WARM]) - WARM * self.step, 0.0)

    def progress(self, batches: Iterable[T], total: int, label: str) -> Iterator[T]:
        self._lap()
        for batch in batches:
            yield batch
            self.steps.append(self._lap())
            if self._enough():
                if not self._checked:
                    raise _Enough
                return

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        self.checks.append(self._lap())
        if self._enough():
            raise _Enough

    def _enough(self) -> bool:
        enough = len(self.steps) >= WARM + STEPS and sum(self.steps[WARM:]) >= self.seconds
        return distributed.broadcast(enough)  # all of them stop at one step

    def _lap(self) -> float:
        """Seconds since it was last asked."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a GPU is given work long before it does it
        last, self._last = self._last, time.monotonic()
        return self._last - last
