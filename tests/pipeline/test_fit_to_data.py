"""Lengths and batch sizes that suit the number of images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data.dataset import Dataset
from compress.data.source import Pixels
from compress.pipeline.fit_to_data import choose_batch_size, fit_to_data
from compress.recipe.load import load_recipe, recipe_from_dict
from compress.recipe.schema import Recipe
from compress.recipe.stages import Train
from compress.runtime.errors import UserError
from compress.training.schedule import count_steps


def recipe(**keys: Any) -> Recipe:
    table = {
        "budget": "100k",
        "small_data": {"images": 10_000},
        "teacher": {"name": "resnet50"},
        "student": {"name": "resnet18"},
        "stages": [
            {"kind": "teach", "epochs": 1},
            {"kind": "distill", "epochs": 0.5, "min_steps": 100, "alpha": 0.5, "fade": True},
            {"kind": "prune"},
            {"kind": "finetune", "epochs": 80, "min_steps": 2_000, "stop_at_teacher": True},
        ],
    }
    return recipe_from_dict(table | keys)


def data(images: int, size: int = 28) -> Dataset:
    targets = torch.arange(images) % 2
    pixels = Pixels(torch.zeros(1, 1, size, size).expand(images, -1, -1, -1), targets)
    return Dataset("mine", ("a", "b"), size, pixels, pixels, lambda: pixels)


def lengths(fitted: Recipe, images: int) -> list[int]:
    assert isinstance(fitted.batch_size, int)
    steps = count_steps(images, fitted.batch_size)
    return [round(s.length * steps) for s in fitted.stages if isinstance(s, Train)]


def test_a_large_data_set_leaves_the_recipe_as_it_is() -> None:
    fitted, notes = fit_to_data(recipe(), data(54_000))
    assert (fitted, notes) == (replace(recipe(), batch_size=256, balance=False), ())
    assert lengths(fitted, 54_000) == [210, 105, 16_800]


def test_floors_hold_for_a_small_data_set() -> None:
    fitted, notes = fit_to_data(recipe(small_data=None), data(1_350))
    assert fitted.batch_size == 64 and lengths(fitted, 1_350) == [21, 100, 2_000]
    assert any("64" in note for note in notes)


@pytest.mark.parametrize(
    ("keys", "trained", "name"),
    [
        ({}, [], "small"),
        ({}, ["teacher"], "taught"),
        ({"teacher": {"name": "resnet50", "pretrained": True}}, [], "taught"),
        ({"student": {"name": "resnet18", "pretrained": True}}, [], "photos"),
        ({}, ["teacher", "student"], "adopted"),
    ],
)
def test_few_images_take_the_stages_of_a_recipe_for_them(
    keys: dict[str, Any], trained: list[str], name: str
) -> None:
    fitted, notes = fit_to_data(recipe(**keys), data(1_350), trained)
    expected, _ = fit_to_data(load_recipe(name), data(1_350))
    assert fitted.stages == expected.stages and any(repr(name) in note for note in notes)


@pytest.mark.parametrize(
    ("images", "name"), [(30_000, "default"), (3_000, "adopted"), (1_350, "adopted-few")]
)
def test_a_trained_student_is_cut_as_the_number_of_images_asks(images: int, name: str) -> None:
    fitted, notes = fit_to_data(load_recipe("default"), data(images), ["teacher", "student"])
    expected, _ = fit_to_data(replace(load_recipe(name), small_data=None), data(images))
    assert fitted.stages == expected.stages
    assert any(repr(name) in note for note in notes) == (name != "default")


def test_masks_take_no_stages_that_mix_images() -> None:
    images = data(1_350)
    masks = torch.zeros(1, 28, 28, dtype=torch.uint8).expand(1_350, -1, -1)
    scenes = replace(images, train_images=replace(images.train_images, masks=masks))
    fitted, _ = fit_to_data(load_recipe("default"), scenes, ["teacher", "student"])
    assert fitted.stages == fit_to_data(load_recipe("adopted"), images)[0].stages


def test_both_recipes_for_a_trained_student_differ_in_the_last_stage_alone() -> None:
    one, other = load_recipe("adopted"), load_recipe("adopted-few")
    assert replace(one, title=other.title, stages=one.stages[:-1]) == replace(
        other, stages=other.stages[:-1]
    )


@pytest.mark.parametrize("key", ["teacher", "teacher.name"])
@pytest.mark.parametrize("name", ["resnet34", "mynets:large"])
def test_a_teacher_that_is_named_teaches(key: str, name: str) -> None:
    fitted, notes = fit_to_data(load_recipe("default", {key: name}), data(1_350))
    expected, _ = fit_to_data(load_recipe("taught"), data(1_350))
    assert fitted.stages == expected.stages and fitted.teacher.name == name
    assert fitted.student.name == expected.student.name
    assert any(f"taught by {name}" in note for note in notes)


@pytest.mark.parametrize("name", ["resnet34", "mynets:small"])
def test_a_student_that_is_named_stays(name: str) -> None:
    fitted, _ = fit_to_data(load_recipe("default", {"student": name}), data(1_350))
    assert fitted.student.name == name


def test_what_counts_as_few_can_be_changed_alone() -> None:
    changed = load_recipe("default", {"small_data.images": 1_000})
    fitted, _ = fit_to_data(changed, data(1_350))
    assert [s.kind for s in fitted.stages] == [s.kind for s in changed.stages]
    assert changed.small_data is not None and changed.small_data.images == 1_000


def test_quick_runs_and_changed_stages_keep_the_stages() -> None:
    default = load_recipe("default", {"finetune.epochs": 2})
    own = load_recipe("default", {"stages": [{"kind": "distill", "epochs": 2}]})
    for kept in (load_recipe("default").quick(), default, own):
        fitted, _ = fit_to_data(kept, data(1_350))
        assert [s.kind for s in fitted.stages] == [s.kind for s in kept.stages]


@settings(deadline=None)
@given(images=st.integers(2, 300_000))
def test_every_stage_has_its_floor(images: int) -> None:
    fitted, _ = fit_to_data(recipe(small_data=None), data(images))
    steps = lengths(fitted, images)[-2:]
    assert steps[0] >= 100 and steps[1] >= 2_000
    assert 32 <= choose_batch_size(images) <= 256


def test_a_length_of_its_own_is_that_of_the_longest_stage() -> None:
    assert lengths(fit_to_data(recipe(epochs=20), data(54_000))[0], 54_000) == [210, 105, 4_200]
    assert lengths(fit_to_data(recipe(steps=321), data(54_000))[0], 54_000) == [210, 105, 321]
    assert lengths(fit_to_data(recipe(steps=7), data(54_000))[0], 54_000) == [7, 7, 7]


def test_a_stage_without_a_length_has_that_of_the_recipe() -> None:
    stages = [{"kind": "distill"}, {"kind": "prune"}, {"kind": "finetune", "steps": 9}]
    for steps, expected in ((21, [21, 21]), (5, [5, 5])):
        fitted, _ = fit_to_data(recipe(steps=steps, stages=stages), data(54_000))
        assert lengths(fitted, 54_000) == expected
    stages[2]["steps"] = 9
    both = [*stages, {"kind": "finetune", "steps": 12}]
    fitted, _ = fit_to_data(recipe(steps=21, stages=both), data(54_000))
    assert lengths(fitted, 54_000) == [21, 9, 21]


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"epochs": 3, "steps": 3}, "steps"),
        ({"stages": [{"kind": "distill", "epochs": 1, "steps": 3}]}, "stages.1"),
        ({"stages": [{"kind": "distill"}]}, "stages.1.epochs"),
        ({"batch_size": "small"}, "batch_size: must be 'auto' or a whole number"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_lengths_that_make_no_sense_are_refused(keys: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError) as refused:
        recipe(**keys)
    assert word in str(refused.value) and len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(("size", "stem"), [(28, "small"), (64, "pool"), (224, "imagenet")])
def test_the_stem_suits_the_size_of_the_images(size: int, stem: str) -> None:
    student = {"name": "resnet18", "stem": "auto"}
    fitted, _ = fit_to_data(recipe(student=student), data(100, size))
    assert (fitted.student.stem, fitted.teacher.stem) == (stem, "imagenet")
    kept, _ = fit_to_data(recipe(student=student | {"pretrained": True}), data(100, size))
    assert kept.student.stem == "imagenet"


def test_uneven_classes_are_said_and_balanced_where_asked() -> None:
    uneven = data(100)
    uneven.train_images.targets[:80] = 0
    kept, notes = fit_to_data(recipe(), uneven)
    assert kept.balance is False and any("--balance" in note for note in notes)
    for asked, settled in (("auto", "loss"), ("sampler", "sampler")):
        assert fit_to_data(recipe(balance=asked), uneven)[0].balance == settled
    assert fit_to_data(recipe(balance="auto"), data(100))[0].balance is False
