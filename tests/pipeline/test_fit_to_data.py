"""Lengths and batch sizes that suit the number of images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.pipeline.fit_to_data import choose_batch_size, fit_to_data
from compress.recipe.load import recipe_from_dict
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Recipe, Train
from compress.runtime.errors import UserError
from compress.training.schedule import count_steps


def recipe(**keys: Any) -> Recipe:
    table = {
        "budget": "100k",
        "teacher": {"name": "resnet50"},
        "student": {"name": "resnet18"},
        "stages": [
            {"kind": "teach", "epochs": 1, "min_images": 10_000},
            {"kind": "distill", "epochs": 0.5, "min_steps": 100, "alpha": 0.5, "fade": True},
            {"kind": "prune"},
            {"kind": "finetune", "epochs": 80, "min_steps": 2_000, "stop_at_teacher": True},
        ],
    }
    return recipe_from_dict(table | keys)


def lengths(fitted: Recipe, images: int) -> list[int]:
    assert isinstance(fitted.batch_size, int)
    steps = count_steps(images, fitted.batch_size)
    return [round(s.length * steps) for s in fitted.stages if isinstance(s, Train)]


def test_a_large_data_set_leaves_the_recipe_as_it_is() -> None:
    fitted, notes = fit_to_data(recipe(), 54_000)
    assert (fitted, notes) == (replace(recipe(), batch_size=256), ())
    assert lengths(fitted, 54_000) == [210, 105, 16_800]


def test_a_small_data_set_has_floors_small_batches_and_no_teacher() -> None:
    fitted, notes = fit_to_data(recipe(), 1_350)
    assert fitted.batch_size == 64 and fitted.stages[0].kind == "distill"
    assert lengths(fitted, 1_350) == [100, 2_000]
    assert any("teach" in note and "--teacher" in note for note in notes)
    assert all(
        (stage.method, stage.alpha, stage.stop_at_teacher) == ("labels", 0.0, False)
        for stage in fitted.stages
        if isinstance(stage, Train)
    )


def test_a_teacher_that_is_trained_or_pretrained_stays() -> None:
    kinds = [stage.kind for stage in recipe().stages]
    assert [s.kind for s in fit_to_data(recipe(), 1_000, ["teacher"])[0].stages] == kinds
    pretrained = replace(recipe(), teacher=ModelSpec("resnet50", pretrained=True))
    assert [s.kind for s in fit_to_data(pretrained, 1_000)[0].stages] == kinds


@given(images=st.integers(2, 3_000_000))
def test_every_stage_has_its_floor(images: int) -> None:
    fitted, _ = fit_to_data(recipe(), images)
    steps = lengths(fitted, images)[-2:]
    assert steps[0] >= 100 and steps[1] >= 2_000
    assert 32 <= choose_batch_size(images) <= 256


def test_a_length_of_its_own_is_that_of_the_longest_stage() -> None:
    assert lengths(fit_to_data(recipe(epochs=20), 54_000)[0], 54_000) == [210, 105, 4_200]
    assert lengths(fit_to_data(recipe(steps=321), 54_000)[0], 54_000) == [210, 105, 321]


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"epochs": 3, "steps": 3}, "steps"),
        ({"stages": [{"kind": "distill", "epochs": 1, "steps": 3}]}, "stages.1"),
        ({"stages": [{"kind": "distill"}]}, "stages.1.epochs"),
        ({"stages": [{"kind": "distill", "epochs": 1, "min_images": 9}]}, "stages.1.min_images"),
        ({"batch_size": "small"}, "batch_size: must be 'auto' or a whole number"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(keys: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError) as refused:
        recipe(**keys)
    assert word in str(refused.value) and len(str(refused.value).splitlines()) == 1
