"""Timing: the duration of a training step, the epochs that fit, and the gain of compiling.

Training is timed by stepping a `Trainer` that leaves the weights alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count, islice

import torch

from compress.runtime import distributed
from compress.runtime.errors import one_line
from compress.training.trainer import Trainer

# A measurement: steps that are not counted, then a minimum of steps and of seconds.
WARMUP_STEPS, MIN_STEPS, MIN_SECONDS = 2, 6, 2.0

# Training that is shorter, in steps or in seconds, is not compiled.
MIN_COMPILED_STEPS, MIN_COMPILED_SECONDS = 1000, 600.0

# Epochs for which a view is used at least where time is short: the teacher, often most of the cost
# of a step, then runs in the first of them only.
EPOCHS_PER_VIEW = 4

# Opens a trainer to be timed, and removes what it wrote. The argument is `cached` for
# `count_epochs` (the teacher's logits are cached) and `compiled` for `compiling_pays`.
Probe = Callable[[bool], AbstractContextManager[Trainer]]


@dataclass(frozen=True)
class StepTiming:
    """Durations of training, in seconds.

    Args:
        step: duration of a step.
        epoch_end: duration of validating and saving after an epoch.
        startup: extra time of the first steps, in which caches fill and networks compile.
    """

    step: float
    epoch_end: float
    startup: float = 0.0

    def epochs_in(self, seconds: float, steps: int) -> float:
        """Return the number of epochs of `steps` steps that fit into `seconds`.

        The last epoch may be a short one. The result is 0 for less than a step. Every epoch ends
        with a validation, even a short one, and the stage with another.
        """
        full, rest = divmod(max(seconds - self.epoch_end, 0), steps * self.step + self.epoch_end)
        part = max(rest - self.epoch_end, 0) / (steps * self.step)
        epochs = full + part
        # As many digits as a person reads.
        return float(f"{epochs:.4g}") if epochs * steps >= 1 else 0.0


def time_steps(trainer: Trainer, seconds: float, epoch_ends: bool = True) -> StepTiming:
    """Step `trainer` until at least `seconds` have been measured.

    Args:
        epoch_ends: also time the end of an epoch; without, `StepTiming.epoch_end` is 0.
    """
    steps: list[float] = []
    ends: list[float] = []

    def enough() -> bool:
        measured = steps[WARMUP_STEPS:]
        # All processes stop at the same step.
        return distributed.broadcast(len(measured) >= MIN_STEPS and sum(measured) >= seconds)

    for epoch in count():
        started = last = _now()
        for _ in trainer.steps(epoch):
            last, before = _now(), last
            steps.append(last - before)
            if enough():
                break
        if epoch_ends:
            trainer.finish_epoch(epoch, started)
            ends.append(_now() - last)
        if enough():
            break
    step = sum(steps[WARMUP_STEPS:]) / len(steps[WARMUP_STEPS:])
    startup = max(sum(steps[:WARMUP_STEPS]) - WARMUP_STEPS * step, 0.0)
    return StepTiming(step, sum(ends) / len(ends) if ends else 0.0, startup)


def fastest_step(trainer: Trainer, steps: int) -> float:
    """Return the duration of the fastest of `steps` training steps, in seconds.

    Caches fill and other programs interrupt: the fastest step says what the machine can do. An
    epoch that is shorter has fewer steps.
    """
    durations: list[float] = []
    last = _now()
    for _ in islice(trainer.steps(0), steps):
        last, before = _now(), last
        durations.append(last - before)
    return min(durations)


def fastest_call(function: Callable[[], object], calls: int) -> float:
    """Return the duration of the fastest of `calls` calls, in seconds."""
    durations: list[float] = []
    for _ in range(calls):
        started = _now()
        function()
        durations.append(_now() - started)
    return min(durations)


def fit_views(views: int, epochs: float) -> int:
    """Return the number of views for a stage of `epochs`: each is used for several epochs.

    Example:
        >>> fit_views(16, epochs=80), fit_views(16, epochs=30), fit_views(0, epochs=30)
        (16, 7, 0)
    """
    return min(views, max(1, int(epochs / EPOCHS_PER_VIEW)))


def count_epochs(seconds: float, probe: Probe, steps: int, cached_after: float = math.inf) -> float:
    """Return the number of epochs of `steps` steps that fit into `seconds`.

    The time that measuring takes is subtracted first.

    Args:
        cached_after: the number of views, and of epochs after which all of the teacher's logits
            are cached. A short training has fewer of both, by `fit_views`.

    Returns:
        The number of epochs, 0 for less than a step; it is the same in all processes.
    """
    if seconds <= 0:
        return 0.0
    deadline = time.monotonic() + seconds
    duration = min(max(MIN_SECONDS, seconds / 100), seconds / 10)

    def measure(cached: bool) -> tuple[StepTiming, float]:
        with probe(cached) as trainer:
            timing = time_steps(trainer, duration)
        return distributed.broadcast((timing, deadline - time.monotonic() - timing.startup))

    timing, left = measure(False)
    epochs = timing.epochs_in(left, steps)
    if cached_after == math.inf or epochs <= 1:
        return epochs
    cached, left = measure(True)
    first = steps * timing.step + timing.epoch_end
    later = steps * cached.step + cached.epoch_end
    fitting = int(left / (first + (EPOCHS_PER_VIEW - 1) * later))
    asked = min(cached_after, max(1, fitting))
    epochs = asked + cached.epochs_in(left - asked * first, steps)
    if asked < cached_after:
        # Rounding must not ask for one more view than there is time for.
        epochs = min(epochs, EPOCHS_PER_VIEW * (asked + 1) - 0.01)
    # Whole steps, and as many digits as a person reads.
    return float(f"{math.floor(epochs * steps) / steps:.4g}")


def compiling_pays(probe: Probe, steps: float, seconds: float) -> tuple[bool, str]:
    """Measure if training ends sooner when it is compiled, the compiler's time included.

    Args:
        steps, seconds: length of the training, which ends at the first of the two.

    Returns:
        True if it does; and a line about the measurement, empty if the training is too short for
        one.
    """
    if steps < MIN_COMPILED_STEPS or seconds < MIN_COMPILED_SECONDS:
        return False, ""
    with probe(False) as trainer:
        plain = time_steps(trainer, MIN_SECONDS, epoch_ends=False).step
    steps = min(steps, seconds / plain)
    if steps < MIN_COMPILED_STEPS or steps * plain < MIN_COMPILED_SECONDS:
        return False, ""
    try:
        with probe(True) as trainer:
            compiled = time_steps(trainer, MIN_SECONDS, epoch_ends=False)
    # The compiler may raise anything.
    except Exception as error:
        return False, f"not compiled: {one_line(error)}"
    pays = compiled.startup + steps * compiled.step < steps * plain
    speed = f"{plain / compiled.step:.2g} times as fast, {compiled.startup:.0f} s to compile"
    return pays, f"{'compiled' if pays else 'not compiled'}: {speed}"


def _now() -> float:
    """Return the time, after a GPU has finished its queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()
