"""Learning rates, phases and the number of steps."""

from __future__ import annotations

import pytest

from compress.training.schedule import count_steps, find_phase, learning_rate


def test_the_rate_rises_linearly_to_the_peak_and_falls_linearly_to_zero() -> None:
    assert learning_rate(0.8, 0.2, 0) == 0 and learning_rate(0.8, 0.2, 1) == pytest.approx(0)
    assert learning_rate(0.8, 0.2, 0.2) == pytest.approx(0.8)
    assert learning_rate(0.8, 0.2, 0.1) == pytest.approx(0.4)
    assert learning_rate(0.8, 0.2, 0.6) == pytest.approx(0.4)
    # Without a warm-up, the peak comes first.
    assert learning_rate(0.8, 0.0, 0) == 0.8
    assert learning_rate(0.8, 1.0, 0.5) == pytest.approx(0.4)


def test_each_phase_has_a_progress_of_its_own() -> None:
    ends = (0.25, 1.0)
    assert find_phase(0.0, ends) == (0, 0.0) and find_phase(0.125, ends) == (0, 0.5)
    assert find_phase(0.25, ends) == (1, 0.0) and find_phase(1.0, ends) == (1, 1.0)


@pytest.mark.parametrize(("samples", "steps"), [(1, 1), (31, 1), (32, 1), (63, 1), (64, 2)])
def test_an_epoch_has_full_batches_only(samples: int, steps: int) -> None:
    assert count_steps(samples, 32) == steps
