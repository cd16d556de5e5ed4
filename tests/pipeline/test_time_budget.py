"""Time budgets: minutes are shared by cost, and decisions are stored.

Measuring leaves no trace.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import FILES, TRAINED, Compress, Interrupted, InterruptIn, Tiny, weights

import compress
from compress.models.build import build
from compress.models.cost import measure_cost
from compress.pipeline.least_time import FITTING_STEPS, VALIDATIONS, measure_stage_seconds
from compress.pipeline.plan import Plan, make_plan
from compress.pipeline.run_dir import read_results
from compress.pipeline.stage_costs import image_costs
from compress.pipeline.time_budget import (
    MIN_SHARE,
    RESERVE,
    is_early,
    round_epochs,
    stage_seconds,
)
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Recipe
from compress.runtime.checksum import seal_table
from compress.training import timing


def same(a: Path, b: Path) -> bool:
    ours, theirs = weights(a), weights(b)
    return all(torch.equal(ours[key], theirs[key]) for key in ours)


def stage_costs(plan: Plan) -> list[float]:
    lengths = [step.train.length if step.train else 0 for step in plan.steps]
    return [length * cost for length, cost in zip(lengths, image_costs(plan), strict=True)]


def test_costs_are_epochs_times_multiply_adds(tiny: Tiny) -> None:
    """The tiny recipe has 3 + 3 + 2 + 3 epochs, and distills at half the image size."""
    plan = make_plan(load_recipe(str(tiny.recipe)))

    def macs(name: str, size: int) -> int:
        return measure_cost(build(ModelSpec(f"tinynets:{name}"), 4), (3, size, size)).macs

    logits, student = macs("teacher", 16) / 3, macs("student", 16)
    targets = [step.target.params for step in plan.steps if step.target and step.target.params]
    first, second = (math.sqrt(target / 14_548) for target in targets)
    by_hand = [
        3 * macs("teacher", 16),
        # After the second view, logits are cached.
        3 * macs("student", 8) + 2 * logits,
        0,
        2 * (first * student + logits),
        0,
        3 * (second * student + logits),
    ]
    assert stage_costs(plan) == pytest.approx(by_hand)
    labels = tiny.variant("labels.toml", ("ema = 0.9", "alpha = 0.0"))
    by_hand[-1] = 3 * second * student
    assert stage_costs(make_plan(load_recipe(str(labels)))) == pytest.approx(by_hand)


def test_a_trained_student_has_its_own_cost(tiny: Tiny, finished: Path) -> None:
    """It is pruned further, and is its own teacher."""
    macs = read_results(finished)[1][-1].macs
    overrides = {"student": str(finished / "model.pth"), "budget": 2000}
    plan = make_plan(load_recipe(str(tiny.recipe), overrides))
    target = plan.steps[-2].target
    assert target is not None and target.params is not None
    expected = 3 * (math.sqrt(target.params / 2999) + 1 / 3) * macs
    assert stage_costs(plan)[-1] == pytest.approx(expected, rel=0.02)


def test_seconds_are_shared_by_cost_with_a_reserve() -> None:
    assert stage_seconds(100, [1, 0, 3]) == pytest.approx(25 * (1 - RESERVE))
    assert stage_seconds(100, [3]) == pytest.approx(100 * (1 - RESERVE))
    assert stage_seconds(100, [1, 1e6]) == pytest.approx(100 * MIN_SHARE * (1 - RESERVE))


def test_hardly_any_time_is_none_for_a_trained_network_and_a_step_for_a_new_one() -> None:
    assert round_epochs(0.19, 100, trained=True) == 0
    assert round_epochs(0.2, 100, trained=True) == 0.2
    assert round_epochs(0, 100, trained=False) == 0.01
    assert round_epochs(0.05, 100, trained=False) == 0.05


def test_stages_before_the_last_cut_are_early_if_any_follow(tiny: Tiny) -> None:
    def find_early(recipe: Recipe) -> list[str]:
        plan = make_plan(recipe)
        return [step.name for step in plan.steps if step.train and is_early(step, plan)]

    whole = load_recipe(str(tiny.recipe))
    assert find_early(whole) == TRAINED[:3]
    # The time has nowhere else to go.
    assert find_early(replace(whole, stages=whole.stages[:-1])) == []


@pytest.mark.slow
def test_a_resumed_run_keeps_its_fitted_epochs(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []

    def fitting(epochs: float) -> Callable[..., float]:
        def fit(available: float, *_: object) -> float:
            seconds.append(available)
            return epochs

        return fit

    monkeypatch.setattr(timing, "count_epochs", fitting(2.4))
    straight, out = tmp_path / "straight", tmp_path / "resumed"
    results = compress.run(str(tiny.recipe), minutes=1, out=straight).results
    # The recipe's two epochs of the stage between the cuts are not exceeded.
    fitted = dict.fromkeys(TRAINED, 2.4) | {"finetune 1": 2}
    assert read_results(straight)[0]["fitted"] == fitted
    assert [result.epochs for result in results] == [2.4, 2.4, 0, 2, 0, 2.4]
    trained = [place for place, result in enumerate(results) if result.epochs]
    manifest = read_results(straight)[0]
    costs, least = manifest["stage_seconds"], manifest["least_seconds"]
    shares = [
        stage_seconds(60 - sum(r.seconds for r in results[:i]), costs[i:], least[i:])
        for i in trained
    ]
    # The time since the stage began is subtracted.
    assert all(got <= share for got, share in zip(seconds, shares, strict=True))
    assert all(got > 0.5 * share for got, share in zip(seconds, shares, strict=True))

    with pytest.raises(Interrupted):
        events = InterruptIn("finetune 1", 2)
        compress.run(str(tiny.recipe), minutes=1, out=out, events=events)
    assert list(read_results(out)[0]["fitted"]) == TRAINED[:3]
    assert len(read_results(out)[1]) == 3
    # The machine has become slower.
    monkeypatch.setattr(timing, "count_epochs", fitting(1.5))
    compress.run(str(tiny.recipe), minutes=1, out=out)
    assert list(read_results(out)[0]["fitted"].values()) == [2.4, 2.4, 2, 1.5]
    assert same(straight / results[3].checkpoint, out / results[3].checkpoint)


@pytest.mark.slow
def test_measuring_changes_nothing(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that measures, then trains for the recipe's epochs, equals a run without `minutes`."""
    fit, own, measured = timing.count_epochs, iter([3, 3, 2, 3]), []
    monkeypatch.setattr(timing, "MIN_SECONDS", 0.01)
    # All views of the recipe are kept, although it is short.
    monkeypatch.setattr(timing, "EPOCHS_PER_VIEW", 1)

    def measure_and_discard(*arguments: object) -> float:
        measured.append(fit(*arguments))  # type: ignore[arg-type]
        return next(own)

    monkeypatch.setattr(timing, "count_epochs", measure_and_discard)
    compress.run(str(tiny.recipe), minutes=1, out=tmp_path / "fitted")
    assert len(measured) == 4 and min(measured) > 0
    assert same(tmp_path / "fitted", finished)
    files = [
        {path.name for path in (run / "stages").iterdir()}
        for run in (tmp_path / "fitted", finished)
    ]
    assert files[0] == files[1]
    assert "fitted" not in json.loads((finished / "run.json").read_text())


@pytest.mark.slow
def test_a_time_budget_is_told_and_remembered(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shown = run("run", tiny.recipe, "--minutes", "0.05", "--out", out).out
    manifest, results = read_results(out)
    assert shown.count("fitted to the time left: ") == 4
    assert "epochs fitted to 0.05 min in all" in shown
    assert {r.name: r.epochs for r in results if r.epochs} == manifest["fitted"]
    for result in results:
        if result.epochs:
            lines = (out / result.checkpoint).with_suffix(".jsonl").read_text().splitlines()
            assert abs(len(lines) - result.epochs) < 1


def test_the_least_time_follows_the_cost_of_an_image(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of an uncut network takes a second."""
    monkeypatch.setattr(timing, "fastest_step", lambda trainer, steps: 1.0)
    plan = make_plan(load_recipe(str(tiny.recipe), {"minutes": 60}))
    steps = [round(6 * step.train.length) if step.train else 0 for step in plan.steps]
    uncut = [
        measure_cost(build(step.network, 4), step.input_size).macs if step.train else math.inf
        for step in plan.steps
    ]
    costs = image_costs(plan, [1 / macs for macs in uncut])
    # Distillation at half the size asks the teacher, once a step, in two of three epochs.
    assert costs[1] == pytest.approx(1 + 2 / 3 / 3)
    fixed = FITTING_STEPS + VALIDATIONS * plan.data.val_count / plan.batch_size / 3
    by_hand = [
        cost * (count + fixed) if count else 0 for cost, count in zip(costs, steps, strict=True)
    ]
    seconds = measure_stage_seconds(plan)
    assert seconds.least == pytest.approx(by_hand)
    assert seconds.least[0] == pytest.approx(18 + fixed)
    assert seconds.whole[0] == pytest.approx(18)


def test_a_network_whose_steps_are_slow_gets_more_time(
    tiny: Tiny, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks are timed one by one, a given teacher by its forward pass, a third of a step."""

    def distill_seconds(forward: float, **keys: object) -> float:
        monkeypatch.setattr(timing, "fastest_step", lambda trainer, steps: 1.0)
        monkeypatch.setattr(timing, "fastest_call", lambda function, calls: forward)
        plan = make_plan(load_recipe(str(tiny.recipe), {"minutes": 60, **keys}))
        return measure_stage_seconds(plan).whole[1]

    trained = distill_seconds(2.0)
    # Three epochs of six steps, two of them with the teacher.
    assert distill_seconds(2.0, teacher=str(finished / FILES[0])) == pytest.approx(18 + 12 * 2)
    assert distill_seconds(4.0, teacher=str(finished / FILES[0])) == pytest.approx(18 + 12 * 4)
    assert trained == pytest.approx(18 + 12 / 3)


def test_a_stage_of_less_than_a_step_has_a_cost(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "fastest_step", lambda trainer, steps: 1.0)
    plan = make_plan(load_recipe(str(tiny.recipe), {"minutes": 60, "finetune.epochs": 0.01}))
    whole = measure_stage_seconds(plan).whole
    assert [seconds > 0 for seconds in whole] == [step.train is not None for step in plan.steps]
    assert 0 < stage_seconds(60, whole[-1:]) < 60


@pytest.mark.slow
def test_too_few_minutes_are_refused_with_the_least_that_works(
    run: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    refused = run("run", tiny.recipe, "--minutes", "1e-6", "--out", out, code=2)
    assert "minutes = 1e-06" in refused.err and len(refused.err.splitlines()) == 1
    assert not out.exists()
    least = refused.err.split("--minutes ")[1].strip(" \n)")
    run("run", tiny.recipe, "--minutes", least, "--out", out)
    assert all(result.epochs for result in read_results(out)[1] if result.kind != "prune")


def test_a_last_stage_without_time_leaves_its_network_alone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = iter([3, 3, 2, 3, 0])
    monkeypatch.setattr(timing, "count_epochs", lambda *arguments: next(own))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tiny.recipe.read_text() + '[[stages]]\nkind = "finetune"\nepochs = 1\n')
    result = compress.run(str(recipe), minutes=1, out=tmp_path / "run")
    before, last = result.results[-2:]
    assert (last.epochs, last.val, last.test) == (0, before.val, before.test)
    assert same(tmp_path / "run" / before.checkpoint, tmp_path / "run" / last.checkpoint)


def test_minutes_that_are_no_number_are_refused(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    refused = run("run", tiny.recipe, "--minutes", "x", "--out", tmp_path / "run", code=2)
    assert "--minutes" in refused.err and "'x'" in refused.err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace torch.compile by a function that changes the numbers and takes no time."""
    monkeypatch.setattr(
        torch, "compile", lambda model, **options: lambda images: model(images) * 1.05
    )
    for module in ("training.trainer", "pipeline.time_budget"):
        monkeypatch.setattr(f"compress.{module}.can_compile", lambda device: True)


def decide(monkeypatch: pytest.MonkeyPatch, pays: bool) -> None:
    monkeypatch.setattr(timing, "compiling_pays", lambda probe, steps, seconds: (pays, "measured"))


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_a_resumed_run_is_compiled_as_it_was(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(monkeypatch, True)
    straight, out = tmp_path / "straight", tmp_path / "resumed"
    compress.run(str(tiny.recipe), out=straight)
    assert read_results(straight)[0]["compiled"] == dict.fromkeys(TRAINED, True)
    with pytest.raises(Interrupted):
        compress.run(str(tiny.recipe), out=out, events=InterruptIn("finetune 2", 2))
    # Measured again, compiling would not pay.
    decide(monkeypatch, False)
    compress.run(str(tiny.recipe), out=out)
    assert same(straight, out) and not same(straight, finished)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_compiling_is_measured_anew_on_another_device(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(monkeypatch, True)
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        compress.run(str(tiny.recipe), out=out, events=InterruptIn("finetune 2", 2))
    manifest = out / "run.json"
    changed = json.loads(manifest.read_text()) | {"device": "another"}
    manifest.write_text(json.dumps(seal_table(changed)))
    decide(monkeypatch, False)
    compress.run(str(tiny.recipe), out=out)
    expected = dict.fromkeys(TRAINED, True) | {"finetune 2": False}
    assert read_results(out)[0]["compiled"] == expected


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_measuring_the_compiler_changes_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that measures compiled and plain steps equals one that is told to compile, or not."""
    for name in ("MIN_SECONDS", "MIN_COMPILED_STEPS", "MIN_COMPILED_SECONDS"):
        monkeypatch.setattr(timing, name, 0.01)
    real, lines = timing.compiling_pays, list[str]()

    def measure_and_decide(*arguments: object) -> tuple[bool, str]:
        lines.append(real(*arguments)[1])  # type: ignore[arg-type]
        # All stages but the second.
        return len(lines) != 2, ""

    monkeypatch.setattr(timing, "compiling_pays", measure_and_decide)
    compress.run(str(tiny.recipe), out=tmp_path / "auto")
    assert len(lines) == 4 and all("times as fast" in line for line in lines)
    ordered = {f"stages.{stage}.compile": stage != 2 for stage in (1, 2, 4, 6)}
    compress.run(str(tiny.recipe), out=tmp_path / "ordered", **ordered)
    assert same(tmp_path / "auto", tmp_path / "ordered")
