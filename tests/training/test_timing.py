"""Timing: durations of steps, the epochs that fit, and the gain of compiling."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.training import timing
from compress.training.timing import (
    EPOCHS_PER_VIEW,
    MIN_COMPILED_SECONDS,
    MIN_COMPILED_STEPS,
    MIN_STEPS,
    WARMUP_STEPS,
    StepTiming,
    compiling_pays,
    count_epochs,
    fit_views,
    time_steps,
)


class Clock:
    """A clock that only moves when it is set forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


class SteppedTrainer:
    """Stands in for a trainer.

    Its first steps take `startup` s each, other steps `step` s, and validations `check` s.
    """

    def __init__(
        self, clock: Clock, step: float, startup: float | None = None, check: float = 0.0
    ) -> None:
        self.clock, self.step, self.check = clock, step, check
        self.startup = step if startup is None else startup
        self.taken = self.checked = 0

    def steps(self, epoch: int) -> Iterator[dict[str, float]]:
        for _ in range(3):
            self.taken += 1
            self.clock.now += self.startup if self.taken <= WARMUP_STEPS else self.step
            yield {}

    def finish_epoch(self, epoch: int, started: float) -> None:
        self.checked += 1
        self.clock.now += self.check


Probe = Callable[[bool], AbstractContextManager[SteppedTrainer]]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def measure(trainer: SteppedTrainer, seconds: float, epoch_ends: bool = True) -> StepTiming:
    return time_steps(trainer, seconds, epoch_ends)  # type: ignore[arg-type]


def test_steps_validations_and_startup_are_timed_apart(clock: Clock) -> None:
    trainer = SteppedTrainer(clock, step=3, startup=50, check=5)
    assert measure(trainer, seconds=1) == StepTiming(step=3, epoch_end=5, startup=2 * (50 - 3))
    assert trainer.taken == WARMUP_STEPS + MIN_STEPS


def test_a_measurement_lasts_as_many_seconds_as_it_is_given(clock: Clock) -> None:
    trainer = SteppedTrainer(clock, step=3)
    measure(trainer, seconds=60)
    assert trainer.taken == WARMUP_STEPS + 20


def test_without_epoch_ends_nothing_is_validated(clock: Clock) -> None:
    trainer = SteppedTrainer(clock, step=3, check=5)
    assert measure(trainer, seconds=1, epoch_ends=False) == StepTiming(3, 0)
    assert trainer.checked == 0


def test_epochs_by_hand() -> None:
    """An epoch has 10 steps of 2 s and a validation of 4 s: 24 s.

    The validation that ends the stage takes another 4 s.
    """
    timing = StepTiming(step=2, epoch_end=4)
    assert timing.epochs_in(4 + 24 * 3, 10) == 3
    # The short epoch is validated too.
    assert timing.epochs_in(4 + 24 * 3 + 4 + 10, 10) == 3.5
    # There is no time to validate another.
    assert timing.epochs_in(4 + 24 * 3 + 3, 10) == 3
    assert timing.epochs_in(4 + 4 + 10, 10) == 0.5
    for too_little in (-100, 0, 5, 9.9):
        assert timing.epochs_in(too_little, 10) == 0


@given(st.floats(1, 1e5), st.floats(1e-3, 10), st.floats(0, 100), st.integers(1, 5000))
def test_fitted_epochs_take_no_longer_than_their_time(
    seconds: float, step: float, check: float, steps: int
) -> None:
    epochs = StepTiming(step, check).epochs_in(seconds, steps)
    taken = round(epochs * steps)
    duration = taken * step + -(-taken // steps) * check + check
    assert taken == 0 or duration <= 1.001 * seconds + 2 * step + check


def test_the_time_of_measuring_is_taken_off(clock: Clock) -> None:
    def probe(cached: bool) -> AbstractContextManager[SteppedTrainer]:
        return nullcontext(SteppedTrainer(clock, step=3, startup=50, check=5))

    began = clock.now
    epochs = count_epochs(400, probe, steps=10)  # type: ignore[arg-type]
    # The extra time of the first steps is spent again when the stage starts.
    left = 400 - (clock.now - began) - 2 * (50 - 3)
    assert epochs == StepTiming(3, 5).epochs_in(left, 10) > 0


def test_no_time_is_not_measured(clock: Clock) -> None:
    def probe(cached: bool) -> AbstractContextManager[SteppedTrainer]:
        raise AssertionError("there is no time to measure")

    assert count_epochs(0, probe, steps=10) == 0  # type: ignore[arg-type]


@given(views=st.integers(1, 20), seconds=st.floats(50, 5000))
def test_a_short_training_asks_the_teacher_for_fewer_views(views: int, seconds: float) -> None:
    """A step takes 3 s with the teacher, and 1 s with cached logits; validations take none."""
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock(patch)

        def probe(cached: bool) -> AbstractContextManager[SteppedTrainer]:
            return nullcontext(SteppedTrainer(clock, step=1 if cached else 3))

        once, both = 3 * (WARMUP_STEPS + MIN_STEPS), 4 * (WARMUP_STEPS + MIN_STEPS)
        uncached = count_epochs(once + seconds, probe, steps=10)  # type: ignore[arg-type]
        cached = count_epochs(both + seconds, probe, steps=10, cached_after=views)  # type: ignore[arg-type]
    assert uncached == pytest.approx(seconds / 30, rel=0.05, abs=0.5)
    assert cached >= uncached - 1
    asked = fit_views(views, cached)
    assert asked <= views and cached >= min(views, 1)
    # Every view is used several times, unless there are hardly any epochs.
    assert asked * EPOCHS_PER_VIEW <= cached or asked == 1
    spent = 30 * min(asked, cached) + 10 * max(cached - asked, 0)
    assert spent <= seconds * 1.003 + 0.1


class Compiler:
    """A probe for `compiling_pays`.

    `plain` and `compiled` are the startup and the step of the two kinds of training, in seconds.
    """

    def __init__(
        self, clock: Clock, plain: tuple[float, float], compiled: tuple[float, float]
    ) -> None:
        self.clock, self.takes = clock, {False: plain, True: compiled}
        self.tried: list[bool] = []

    def __call__(self, compiled: bool) -> AbstractContextManager[SteppedTrainer]:
        self.tried.append(compiled)
        startup, step = self.takes[compiled]
        return nullcontext(SteppedTrainer(self.clock, step, startup))

    def pays(self, steps: float, seconds: float = math.inf) -> tuple[bool, str]:
        return compiling_pays(self, steps, seconds)  # type: ignore[arg-type]


def test_short_trainings_do_not_even_try_the_compiler(clock: Clock) -> None:
    compiler = Compiler(clock, (0.1, 0.1), (0.1, 0.01))
    assert compiler.pays(MIN_COMPILED_STEPS - 1) == (False, "")
    assert compiler.pays(1e6, MIN_COMPILED_SECONDS - 1) == (False, "")
    assert compiler.tried == []
    assert compiler.pays(MIN_COMPILED_SECONDS / 0.1 - 1) == (False, "")
    assert compiler.pays(1e6, MIN_COMPILED_STEPS * 0.1 - 1) == (False, "")
    assert compiler.tried == [False]


def test_it_is_compiled_if_that_is_over_sooner(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step is 0.5 s shorter, and the compiler takes 100 s: even after 200 steps."""
    monkeypatch.setattr(timing, "MIN_COMPILED_STEPS", 10)
    monkeypatch.setattr(timing, "MIN_COMPILED_SECONDS", 100.0)
    # Both of the uncounted first steps are slow.
    compiler = Compiler(clock, (1.5, 1.5), (51, 1.0))
    assert compiler.pays(201) == (True, "compiled: 1.5 times as fast, 100 s to compile")
    assert compiler.pays(199) == (False, "not compiled: 1.5 times as fast, 100 s to compile")
    assert compiler.pays(1e6, 201 * 1.5)[0] and not compiler.pays(1e6, 199 * 1.5)[0]
    assert not Compiler(clock, (1.5, 1.5), (51, 1.6)).pays(1e6)[0]


def test_a_network_that_cannot_be_compiled_is_not(clock: Clock) -> None:
    plain = SteppedTrainer(clock, step=1)

    def probe(compiled: bool) -> AbstractContextManager[SteppedTrainer]:
        if compiled:
            raise RuntimeError("no such\noperator")
        return nullcontext(plain)

    assert compiling_pays(probe, 1e6, math.inf) == (  # type: ignore[arg-type]
        False,
        "not compiled: no such operator",
    )
