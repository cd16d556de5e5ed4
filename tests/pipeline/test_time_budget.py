"""Patience: the epochs are what the arithmetic says, the rehearsal leaves no trace, and the run ends on time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import LEARNING, Compress, Stop, StopIn, Tiny, weights

import compress
from compress.models.build import build
from compress.models.cost import measure_cost
from compress.pipeline import time_budget as patience
from compress.pipeline.plan import make_plan
from compress.pipeline.run_dir import read_results
from compress.pipeline.time_budget import (
    LEAST,
    RESERVE,
    STEPS,
    WARM,
    Pace,
    epochs_in,
    fit,
    measure,
    prices,
    share,
    worthwhile,
)
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec
from compress.training.events import Events


def test_prices_are_epochs_times_multiply_adds(tiny: Tiny) -> None:
    """Checked by hand for the tiny recipe: 3 + 3 + 2 + 3 epochs, the distill stage at half the side."""
    plan = make_plan(load_recipe(str(tiny.recipe)))

    def macs(name: str, size: int) -> int:
        return measure_cost(build(ModelSpec(f"tinynets:{name}"), 4), (3, size, size)).macs

    answer, student = macs("teacher", 16) / 3, macs("student", 16)
    first, second = (math.sqrt(step.target.params / 14_548) for step in plan.steps if step.target)
    by_hand = [
        3 * macs("teacher", 16),
        3 * macs("student", 8) + 2 * answer,  # of the second view, the answers are kept
        0,
        2 * (first * student + answer),
        0,
        3 * (second * student + answer),
    ]
    assert prices(plan) == pytest.approx(by_hand)

    deaf = tiny.variant("deaf.toml", ("ema = 0.9", "alpha = 0.0"))
    plan = make_plan(load_recipe(str(deaf)))
    by_hand[-1] = 3 * second * student
    assert prices(plan) == pytest.approx(by_hand)


def test_a_share_is_by_price_and_keeps_a_reserve() -> None:
    assert share(100, [1, 0, 3]) == pytest.approx(25 * (1 - RESERVE))
    assert share(100, [3]) == pytest.approx(100 * (1 - RESERVE))
    assert share(100, [1, 1e6]) == pytest.approx(100 * LEAST * (1 - RESERVE))


def test_epochs_by_hand() -> None:
    pace = Pace(
        step=2, check=4
    )  # 10 steps: 24 s an epoch, and 4 s for the validation that ends the stage
    assert epochs_in(4 + 24 * 3, pace, 10) == 3
    assert epochs_in(4 + 24 * 3 + 4 + 10, pace, 10) == 3.5  # the short epoch is validated as well
    assert epochs_in(4 + 24 * 3 + 3, pace, 10) == 3  # no time to validate another
    assert epochs_in(4 + 4 + 10, pace, 10) == 0.5
    for too_little in (-100, 0, 5, 9.9):
        assert epochs_in(too_little, pace, 10) == 0


@given(st.floats(1, 1e5), st.floats(1e-3, 10), st.floats(0, 100), st.integers(1, 5000))
def test_what_fits_takes_no_longer(seconds: float, step: float, check: float, steps: int) -> None:
    epochs = epochs_in(seconds, Pace(step, check), steps)
    made = round(epochs * steps)
    takes = made * step + -(-made // steps) * check + check
    assert made == 0 or takes <= 1.001 * seconds + 2 * step + check


def test_a_measurement_is_of_steps_and_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only a step (3 s; the first two, 50 s) and a validation (5 s) move."""
    now, seen = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def rehearse(events: Events, folder: Path) -> None:
        torch.manual_seed(5)
        (folder / "answers").write_text("kept")
        for epoch in range(1000):
            for _ in events.progress(range(3), 3, ""):
                seen.append(epoch)
                now[0] += 50 if len(seen) <= WARM else 3
            now[0] += 5
            events.on_epoch_end(1000, [])

    random = torch.get_rng_state()
    assert measure(rehearse, seconds=1) == Pace(step=3, check=5, start=2 * (50 - 3))
    assert len(seen) == WARM + STEPS and torch.equal(torch.get_rng_state(), random)
    began = now[0]
    assert fit(400, lambda kept: rehearse, steps=10) == epochs_in(
        400 - (now[0] - began), Pace(3, 5), 10
    )
    seen.clear()
    assert (
        fit(-1, lambda kept: rehearse, steps=10) == 0 and not seen
    )  # no time, none to measure either
    assert measure(rehearse, seconds=60) == Pace(3, 5, 94) and len(seen) == WARM + 20


def test_epochs_whose_answers_are_kept_take_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only steps move: 3 s if the guide is asked, 1 s if not; validations take none."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def rehearsals(kept: bool) -> Callable[[Events, Path], None]:
        def rehearse(events: Events, folder: Path) -> None:
            for _ in events.progress(range(1000), 1000, ""):
                now[0] += 1 if kept else 3
            events.on_epoch_end(1, [])

        return rehearse

    once, both = 3 * (WARM + STEPS), 4 * (WARM + STEPS)
    assert fit(once + 60, rehearsals, steps=10) == 2
    assert fit(once + 60, rehearsals, steps=10, asked=2) == 2
    assert fit(both + 60, rehearsals, steps=10, asked=1) == 1 + 3


def test_shares_are_of_what_is_left_and_a_killed_run_keeps_its_epochs(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def fitting(epochs: float) -> Callable[..., float]:
        return lambda seconds, rehearsals, *_: given.append(seconds) or epochs  # type: ignore[func-returns-value]

    monkeypatch.setattr(patience, "fit", fitting(2.4))
    whole, out = tmp_path / "whole", tmp_path / "killed"
    results = compress.run(str(tiny.recipe), minutes=1, out=whole).results
    assert read_results(whole)[0]["fitted"] == dict.fromkeys(LEARNING, 2.4)
    assert [result.epochs for result in results] == [2.4, 2.4, 0, 2.4, 0, 2.4]
    plan = make_plan(load_recipe(str(tiny.recipe)))
    cost = prices(plan)
    trained = [place for place, result in enumerate(results) if result.epochs]
    due = [share(60 - sum(r.seconds for r in results[:i]), cost[i:]) for i in trained]
    assert all(
        seconds - 2 < got <= seconds for got, seconds in zip(given, due, strict=True)
    )  # less what has passed

    with pytest.raises(Stop):
        compress.run(str(tiny.recipe), minutes=1, out=out, events=StopIn("finetune 1", 2))
    assert list(read_results(out)[0]["fitted"]) == LEARNING[:3] and len(read_results(out)[1]) == 3
    monkeypatch.setattr(patience, "fit", fitting(1.5))  # the machine has become slower
    compress.run(str(tiny.recipe), minutes=1, out=out)
    assert list(read_results(out)[0]["fitted"].values()) == [2.4, 2.4, 2.4, 1.5]
    a, b = (weights(run / results[3].checkpoint) for run in (whole, out))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_rehearsal_changes_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that rehearses, and is then given the recipe's own epochs, is the run without `minutes`."""
    measure, fit = patience.measure, patience.fit
    monkeypatch.setattr(patience, "measure", lambda rehearse, seconds: measure(rehearse, 0))
    own = iter([3, 3, 2, 3])
    monkeypatch.setattr(patience, "fit", lambda *arguments: (fit(*arguments), next(own))[1])
    compress.run(str(tiny.recipe), minutes=1, out=tmp_path / "fitted")
    compress.run(str(tiny.recipe), out=tmp_path / "plain")
    fitted, plain = (weights(tmp_path / name) for name in ("fitted", "plain"))
    assert all(torch.equal(fitted[key], plain[key]) for key in plain)
    files = [
        sorted(path.name for path in (tmp_path / name / "stages").iterdir())
        for name in ("fitted", "plain")
    ]
    assert files[0] == files[1]
    assert "fitted" not in json.loads((tmp_path / "plain" / "run.json").read_text())


def test_a_run_ends_on_time(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shown = run("run", tiny.recipe, "--minutes", "0.2", "--out", out).out
    manifest, results = read_results(out)
    assert 3 < sum(result.seconds for result in results) < 2 * 12
    assert (
        shown.count("fitted to the time left: ") == 4 and "epochs fitted to 0.2 min in all" in shown
    )
    assert {r.name: r.epochs for r in results if r.epochs} == manifest["fitted"]
    for result in results:
        lines = (out / result.checkpoint).with_suffix(".jsonl")
        assert not result.epochs or len(lines.read_text().splitlines()) >= int(result.epochs)


def test_no_time_at_all_is_a_step_a_stage(tiny: Tiny, tmp_path: Path) -> None:
    result = compress.run(str(tiny.recipe), minutes=1e-6, out=tmp_path / "run")
    assert [result.epochs for result in result.results if result.kind != "prune"] == [0.1667] * 4
    assert result.model.is_file()


def test_next_to_no_time_is_none_for_a_trained_network_and_a_step_for_a_new_one() -> None:
    assert worthwhile(0.19, 100, learned=True) == 0 and worthwhile(0.2, 100, learned=True) == 0.2
    assert (
        worthwhile(0, 100, learned=False) == 0.01 and worthwhile(0.05, 100, learned=False) == 0.05
    )


def test_a_late_stage_leaves_no_time_and_the_last_one_leaves_its_network_alone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step at half of the peak rate would only unsettle what has been learned."""
    own = iter([3, 3, 2, 3, 0])
    monkeypatch.setattr(patience, "fit", lambda *arguments: next(own))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tiny.recipe.read_text() + '[[stages]]\nkind = "finetune"\nepochs = 1\n')
    result = compress.run(str(recipe), minutes=1, out=tmp_path / "run")
    kept, last = result.results[-2:]
    assert last.epochs == 0 and last.val == kept.val and last.test == kept.test
    before, after = (weights(tmp_path / "run" / result.checkpoint) for result in (kept, last))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_minutes_that_are_no_number_are_refused(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    refused = run("run", tiny.recipe, "--minutes", "x", "--out", tmp_path / "run", code=2)
    assert "'x' is not a valid float" in refused.err and not (tmp_path / "run").exists()


def test_a_network_that_is_given_has_its_own_price(tiny: Tiny, finished: Path) -> None:
    """Not that of the recipe's student, uncut; it is its own teacher."""
    macs = read_results(finished)[1][-1].macs
    plan = make_plan(
        load_recipe(str(tiny.recipe), {"student": str(finished / "model.pth"), "budget": 2000})
    )
    target = plan.steps[-2].target
    assert target is not None
    assert prices(plan)[-1] == pytest.approx(
        3 * (math.sqrt(target.params / 2999) + 1 / 3) * macs, rel=0.02
    )
