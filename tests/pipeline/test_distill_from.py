"""The network that a stage distills from, and the end of distillation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Tiny, own_model, weights

import compress
from compress.data.batches import training_batches
from compress.distillation.early_stop import EarlyStoppedKD
from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pipeline.events import RunEvents
from compress.pipeline.plan import make_plan
from compress.pipeline.pretrained import load_checkpoint
from compress.pipeline.run_dir import StageResult, read_results
from compress.pipeline.stage_costs import image_costs
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec
from compress.recipe.stages import Augment
from compress.runtime.errors import UserError
from compress.training.forward import make_teacher

# The file of each network that the last stage may distill from.
FILES = {"teacher": "01-teach", "student": "02-distill", "previous": "04-finetune-1"}


def distilling_from(tiny: Tiny, network: str) -> Path:
    """Return the tiny recipe with a last stage that distills from `network` alone, on one view."""
    keys = f'distill_from = "{network}"\nalpha = 1.0\nviews = 1\ncrop = [0.5, 1.0]'
    return tiny.variant(f"{network}.toml", ("ema = 0.9", keys))


@pytest.mark.slow
@pytest.mark.parametrize("network", FILES)
def test_cached_logits_are_those_of_the_network(tiny: Tiny, tmp_path: Path, network: str) -> None:
    class KeepLogits(RunEvents):
        logits: np.ndarray

        def on_stage_end(self, result: StageResult, before: StageResult | None, table: str) -> None:
            if result.name == "finetune 2":
                files = (tmp_path / "run/logits_cache").glob("*/*.npy")
                self.logits = np.load(max(files, key=lambda file: file.stat().st_mtime_ns))

    events = KeepLogits()
    recipe = distilling_from(tiny, network)
    compress.run(recipe, out=tmp_path / "run", device="cpu", events=events)
    plan = make_plan(load_recipe(str(tiny.recipe)), "cpu")
    model = own_model(tmp_path / f"run/stages/{FILES[network]}.pth").model
    teacher = make_teacher(model, 8 if network == "student" else 16)
    batches = training_batches(
        plan.data,
        Augment(crop=(0.5, 1.0), flip=False),
        encode_targets=plan.task.encode_targets,
        seed=0,
        view=0,
        batch_size=32,
    )
    expected = torch.cat([teacher(batch.images) for batch in batches])
    assert np.allclose(events.logits, expected.numpy(), atol=0.02 * float(expected.abs().max()))


def test_other_networks_than_the_teacher_need_a_cut_before(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"stages\.2\.distill_from: 'previous'"):
        load_recipe(str(tiny.recipe), {"distill.distill_from": "previous"})


def test_a_second_stage_of_fine_tuning_distills_from_the_first(tiny: Tiny) -> None:
    text = tiny.recipe.read_text()
    last = text[text.rindex("[[stages]]") :]
    last = last.replace("ema = 0.9", 'distill_from = "previous"\nalpha = 0.5')
    (tiny.root / "again.toml").write_text(f"{text}\n{last}")
    plan = make_plan(load_recipe(str(tiny.root / "again.toml")), "cpu")
    assert plan.teacher_of(plan.steps[-1]) is plan.steps[-2]
    assert plan.steps[-2].name == "finetune 2"


def test_feature_maps_of_the_previous_network_are_compared(tiny: Tiny, tmp_path: Path) -> None:
    keys = {"distill_from": "previous", "method": "fitnets", "taps": ["1"], "epochs": 1}
    overrides: dict[str, Any] = {f"stages.6.{key}": value for key, value in keys.items()}
    results = compress.run(tiny.recipe, out=tmp_path / "run", device="cpu", **overrides).results
    assert results[-1].params <= 3000
    lines = (tmp_path / "run/stages/06-finetune-2.jsonl").read_text().splitlines()
    assert all(json.loads(line)["features"] > 0 for line in lines)


def test_feature_methods_are_checked_with_a_copy_as_the_teacher(tiny: Tiny) -> None:
    """A network that distills from itself is copied: one is trained, the other frozen."""
    keys = {"stages.4.method": "fitnets", "stages.4.taps": ["1"]}
    keys |= {"stages.6.method": "stagewise", "stages.6.taps": ["0", "1"]}
    keys |= {f"stages.{stage}.distill_from": "previous" for stage in (4, 6)}
    plan = make_plan(load_recipe(str(tiny.recipe), keys), "cpu")
    assert [plan.teacher_of(step) for step in plan.steps[3::2]] == [plan.steps[1], plan.steps[3]]
    with pytest.raises(UserError, match="taps: the teacher has no layer '9'"):
        make_plan(load_recipe(str(tiny.recipe), keys | {"stages.4.taps": ["9"]}), "cpu")


def test_a_teacher_costs_a_third_of_a_step_of_its_own(tiny: Tiny) -> None:
    def macs(name: str, size: int) -> float:
        return measure_cost(build(ModelSpec(f"tinynets:{name}"), 4), (3, size, size)).macs

    costs = {}
    for network in FILES:
        plan = make_plan(load_recipe(str(distilling_from(tiny, network))), "cpu")
        costs[network] = 3 * image_costs(plan)[-1]
    targets = [step.target.params for step in plan.steps if step.target and step.target.params]
    first, second = (math.sqrt(target / 14_548) for target in targets)
    own = second * macs("student", 16)
    logits = {
        "teacher": macs("teacher", 16),
        "student": macs("student", 8),
        "previous": first * macs("student", 16),
    }
    # Three epochs of training, one view of logits.
    assert costs == pytest.approx({key: 3 * own + cost / 3 for key, cost in logits.items()})


@pytest.mark.slow
@pytest.mark.parametrize("accuracy", [0.5, 2.0])
def test_distillation_stops_once_the_student_is_as_good_as_its_teacher(
    tiny: Tiny, tmp_path: Path, accuracy: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A teacher that no student reaches distills to the end; a poor one stops after an epoch."""
    monkeypatch.setattr(
        "compress.pipeline.train_stage.EarlyStoppedKD",
        lambda distilling, labels, _: EarlyStoppedKD(distilling, labels, accuracy),
    )
    # The student may have been better than any teacher before.
    monkeypatch.setattr("compress.pipeline.unfinished_run._student_accuracy", lambda results: 0.0)
    stopping = tiny.variant("stop.toml", ("ema = 0.9", "alpha = 1.0\nstop_at_teacher = true"))
    compress.run(stopping, out=tmp_path / "run", device="cpu")
    lines = (tmp_path / "run/stages/06-finetune-2.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    assert epochs[0]["val"] > 0.5, "the poor teacher should be reached in the first epoch"
    assert ["distillation" in epoch for epoch in epochs] == [True, accuracy > 1, accuracy > 1]
    plain = tiny.variant("plain.toml", ("ema = 0.9", "alpha = 1.0"))
    compress.run(plain, out=tmp_path / "plain", device="cpu")
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "plain")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours) == (accuracy > 1)


@pytest.mark.slow
def test_a_student_that_beat_its_teacher_before_trains_on_labels_only(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its teacher is not even loaded, nor is a teacher without any weight in the loss.

    A teacher as good as the student distills, since it may be the same network.
    """
    last = {
        "beaten": 'method = "kd"\nalpha = 1.0\nstop_at_teacher = true\nviews = 1',
        "weightless": "alpha = 0.0\nviews = 1",
        "labels": 'method = "labels"',
        "itself": 'distill_from = "previous"\nalpha = 1.0\nstop_at_teacher = true',
    }
    opened: dict[str, list[str]] = {name: [] for name in last}
    for name, keys in last.items():

        def record(path: Path, spec: ModelSpec, into: list[str] = opened[name]) -> Checkpoint:
            into.append(path.stem)
            return load_checkpoint(path, spec)

        monkeypatch.setattr("compress.pipeline.unfinished_run.load_checkpoint", record)
        recipe = tiny.variant(f"{name}.toml", ("ema = 0.9", keys))
        compress.run(recipe, out=tmp_path / name, device="cpu", **{"teach.lr": 1e-9})
    results = read_results(tmp_path / "beaten")[1]
    assert results[3].val > results[0].val
    beaten, weightless, labels, itself = (weights(tmp_path / name) for name in last)
    assert all(torch.equal(beaten[key], labels[key]) for key in labels)
    assert all(torch.equal(weightless[key], labels[key]) for key in labels)
    assert not all(torch.equal(itself[key], labels[key]) for key in labels)
    assert opened["beaten"] == opened["labels"] != opened["itself"]


def test_stopping_at_a_teacher_without_logits_is_refused(tiny: Tiny) -> None:
    keys = {"finetune.method": "labels", "finetune.stop_at_teacher": True}
    with pytest.raises(UserError, match=r"method 'labels'.*stop_at_teacher"):
        make_plan(load_recipe(str(tiny.recipe), keys), "cpu")
