"""Whom a stage listens to: the teacher, the distilled student, or the network as it was before the last cut."""

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
from compress.distillation.early_stop import Outgrown
from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pipeline.plan import make_plan
from compress.pipeline.pretrained import load_step
from compress.pipeline.run_dir import StageResult, read_results
from compress.pipeline.time_budget import prices
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Augment
from compress.runtime.errors import UserError
from compress.training.events import Events
from compress.training.trainer import teach

FILES = {"teacher": "01-teach", "student": "02-distill", "before": "04-finetune-1"}


def listening(tiny: Tiny, guide: str) -> Path:
    """The tiny recipe, whose last stage listens to `guide` alone and goes over one view of the images."""
    return tiny.variant(
        f"{guide}.toml", ("ema = 0.9", f'guide = "{guide}"\nalpha = 1.0\nviews = 1\nflip = false')
    )


@pytest.mark.parametrize("guide", FILES)
def test_the_answers_are_the_guides(tiny: Tiny, tmp_path: Path, guide: str) -> None:
    class Keep(Events):
        answers: np.ndarray

        def on_stage_end(self, result: StageResult, before: StageResult | None, table: str) -> None:
            if result.name == "finetune 2":
                newest = max(
                    (tmp_path / "run/answers").glob("*/*.npy"),
                    key=lambda file: file.stat().st_mtime_ns,
                )
                self.answers = np.load(newest)

    events = Keep()
    compress.run(listening(tiny, guide), out=tmp_path / "run", device="cpu", events=events)
    plan = make_plan(load_recipe(str(tiny.recipe)), "cpu")
    model = own_model(tmp_path / f"run/stages/{FILES[guide]}.pth").model
    answer = teach(model, 8 if guide == "student" else 16)
    batches = training_batches(plan.data, Augment((0.6, 1.0), flip=False), seed=0, view=0, batch=32)
    theirs = torch.cat([answer(batch.images) for batch in batches])
    assert np.allclose(events.answers, theirs.numpy(), atol=0.02 * float(theirs.abs().max()))


def test_only_after_a_cut(tiny: Tiny) -> None:
    with pytest.raises(
        UserError, match=r"stages.2.guide: only the teacher can be listened to before pruning"
    ):
        load_recipe(str(tiny.recipe), {"distill.guide": "before"})


def test_a_second_stage_of_fine_tuning_listens_to_the_first(tiny: Tiny) -> None:
    """Born again: to the network that it goes on with."""
    text = tiny.recipe.read_text()
    last = text[text.rindex("[[stages]]") :].replace("ema = 0.9", 'guide = "before"\nalpha = 0.5')
    (tiny.root / "again.toml").write_text(f"{text}\n{last}")
    plan = make_plan(load_recipe(str(tiny.root / "again.toml")), "cpu")
    assert plan.guide(plan.steps[-1]) is plan.steps[-2] and plan.steps[-2].name == "finetune 2"


def test_feature_maps_of_the_network_before_are_compared(tiny: Tiny, tmp_path: Path) -> None:
    methods = {
        "stages.6.guide": "before",
        "stages.6.method": "fitnets",
        "stages.6.taps": ["1"],
        "stages.6.epochs": 1,
    }
    results = compress.run(tiny.recipe, out=tmp_path / "run", device="cpu", **methods).results
    assert results[-1].params <= 3000


def test_methods_on_maps_are_checked_with_a_guide_of_their_own(tiny: Tiny) -> None:
    """To listen to itself a network is there twice: one learns, the other is frozen."""
    keys = {"stages.4.guide": "before", "stages.4.method": "fitnets", "stages.4.taps": ["1"]}
    keys |= {
        "stages.6.guide": "before",
        "stages.6.method": "stagewise",
        "stages.6.taps": ["0", "1"],
    }
    make_plan(load_recipe(str(tiny.recipe), keys), "cpu")


def test_the_price_of_a_guide_is_a_third_of_a_step_of_its_own(tiny: Tiny) -> None:
    def macs(name: str, size: int) -> float:
        return measure_cost(build(ModelSpec(f"tinynets:{name}"), 4), (3, size, size)).macs

    paid = {}
    for guide in FILES:
        plan = make_plan(load_recipe(str(listening(tiny, guide))), "cpu")
        paid[guide] = prices(plan)[-1]
    first, second = (
        math.sqrt(step.target.params / 14_548)
        for step in plan.steps
        if step.target and step.target.params
    )
    own = second * macs("student", 16)
    answers = {
        "teacher": macs("teacher", 16),
        "student": macs("student", 8),
        "before": first * macs("student", 16),
    }
    assert paid == pytest.approx(
        {guide: 3 * own + cost / 3 for guide, cost in answers.items()}
    )  # one view, kept


@pytest.mark.parametrize("accuracy", [0.5, 2.0])
def test_a_guide_is_heard_until_it_is_outgrown(
    tiny: Tiny, tmp_path: Path, accuracy: float, monkeypatch: Any
) -> None:
    """With a guide that no student reaches it is as if nothing were to be outgrown, with a poor one as if it had said
    nothing after the first epoch."""
    monkeypatch.setattr(
        "compress.pipeline.train_stage.Outgrown",
        lambda guided, alone, _: Outgrown(guided, alone, accuracy),
    )
    monkeypatch.setattr(
        "compress.pipeline.run._reached", lambda results: 0.0
    )  # whatever this student has learned so far
    outgrowing = tiny.variant("stop_at_teacher.toml", ("ema = 0.9", "alpha = 1.0\noutgrow = true"))
    compress.run(outgrowing, out=tmp_path / "run", device="cpu")
    heard = [
        json.loads(line)
        for line in (tmp_path / "run/stages/06-finetune-2.jsonl").read_text().splitlines()
    ]
    compress.run(
        tiny.variant("heard.toml", ("ema = 0.9", "alpha = 1.0")),
        out=tmp_path / "heard",
        device="cpu",
    )
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "heard")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours) == (accuracy > 1)
    assert heard[0]["val"] > 0.5  # so that the poor guide is outgrown after one epoch


def test_a_guide_as_good_as_the_student_is_outgrown() -> None:
    loss = Outgrown(lambda *_: torch.tensor(1.0), lambda *_: torch.tensor(2.0), accuracy=0.7)
    said = []
    for best in (0.0, 0.6, 0.7, 0.8):
        loss.begin(best)
        said.append(float(loss(lambda images: images, None, 0.0)))
    assert said == [1.0, 1.0, 2.0, 2.0]


def test_a_guide_that_was_outgrown_before_the_cut_is_never_heard(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do its views come again: it is as if there were none. So it is with one that has no say. One that is no worse
    than the student was, as it may be the same network, is heard."""
    last = {
        "heard": 'method = "kd"\nalpha = 1.0\noutgrow = true\nviews = 1',
        "deaf": "alpha = 0.0\nviews = 1",
        "alone": 'method = "labels"',
        "itself": 'guide = "before"\nalpha = 1.0\noutgrow = true',
    }
    opened: dict[str, list[str]] = {name: [] for name in last}
    for name, keys in last.items():

        def load_and_tell(
            path: Path, network: ModelSpec, into: list[str] = opened[name]
        ) -> Checkpoint:
            into.append(path.stem)
            return load_step(path, network)

        monkeypatch.setattr("compress.pipeline.run.load_step", load_and_tell)
        recipe = tiny.variant(f"{name}.toml", ("ema = 0.9", keys))
        compress.run(recipe, out=tmp_path / name, device="cpu", **{"teach.lr": 1e-9})
    heard, deaf, alone, itself = (weights(tmp_path / name) for name in last)
    assert all(
        torch.equal(heard[key], alone[key]) and torch.equal(deaf[key], alone[key]) for key in alone
    )
    assert not all(torch.equal(itself[key], alone[key]) for key in alone)
    assert opened["heard"] == opened["alone"]  # nor loaded
    assert read_results(tmp_path / "heard")[1][3].val > read_results(tmp_path / "heard")[1][0].val


def test_nothing_to_outgrow_is_refused(tiny: Tiny) -> None:
    with pytest.raises(
        UserError,
        match=r"method 'labels' has no answers to stop_at_teacher here: leave stop_at_teacher out",
    ):
        make_plan(
            load_recipe(
                str(tiny.recipe), {"finetune.method": "labels", "finetune.stop_at_teacher": True}
            ),
            "cpu",
        )
