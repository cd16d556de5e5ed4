"""The experiments in docs/experiments ask for what the networks can do."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from mask_files import write_masks
from tiny import Tiny

from compress.data.open_dataset import open_dataset
from compress.experiments.experiment import plan_experiment
from compress.models.build import build_untrained
from compress.pipeline.checks import check_methods
from compress.pipeline.stage_steps import stage_steps
from compress.pipeline.step import number_steps
from compress.recipe.stages import Train
from compress.runtime.errors import UserError
from compress.training.task import make_task

EXPERIMENTS = Path(__file__).parents[2] / "docs" / "experiments"

# Rows share networks.
build_once = cache(build_untrained)


def check_rows(file: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> int:
    """Check that the networks of every row can be trained as it says.

    Trained teachers are made by other runs: an untrained one stands in for them.

    Returns:
        The number of rows that differ in that.
    """
    monkeypatch.setattr("compress.pipeline.checks.build_untrained", build_once)
    distinct = {}
    for trial in plan_experiment(file, out=tiny.root / "planned"):
        recipe = trial.recipe
        trained = recipe.teacher.weights and all(s.kind != "teach" for s in recipe.stages)
        stages = (Train(kind="teach", epochs=1), *recipe.stages) if trained else recipe.stages
        distinct[recipe.teacher, recipe.student, stages] = replace(recipe, stages=stages)
    images = f"folder:{tiny.data}"
    masks = f"masks:{write_masks(tiny.root / file.stem, 8, 2)}"
    for recipe in distinct.values():
        name = masks if recipe.data == "fashion-scenes" else images
        data = open_dataset(name, image_size=32)
        check_methods(recipe, number_steps(stage_steps(recipe, data)), data, make_task(data))
    return len(distinct)


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda file: file.stem)
def test_networks_can_be_trained_as_the_experiment_says(
    file: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_rows(file, tiny, monkeypatch) > 0


@pytest.mark.parametrize(
    ("name", "before", "after", "words"),
    [
        ("stagewise-shares-cifar10", '"fitnets"', '"fitnet"', "did you mean 'fitnets'"),
        ("stagewise", '"relu", "layer1"', '"stem", "layer1"', "the teacher has no layer 'stem'"),
        ("stagewise", "taps = []", "temperature = 4.0", "method 'labels'.*taps"),
        (
            "alpha",
            "stop_at_teacher = false",
            "stop_at_teacher = true",
            "method 'kd'.*stop_at_teacher",
        ),
    ],
)
def test_a_mistake_in_an_experiment_is_found(
    name: str,
    before: str,
    after: str,
    words: str,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (EXPERIMENTS / f"{name}.toml").read_text()
    assert before in text
    (tmp_path / "wrong.toml").write_text(text.replace(before, after))
    with pytest.raises(UserError) as caught:
        check_rows(tmp_path / "wrong.toml", tiny, monkeypatch)
    assert re.search(words, str(caught.value))
