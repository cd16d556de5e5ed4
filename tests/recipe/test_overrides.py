"""Overrides: what flags, experiments and Python arguments change in a recipe."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from compress.recipe.load import load_recipe
from compress.recipe.overrides import apply_overrides
from compress.recipe.stages import Prune, Train
from compress.runtime.errors import UserError

Table = dict[str, Any]


def test_overrides_replace_the_files_keys(small: Path) -> None:
    keys = {"budget": "50k", "teacher.name": "resnet34", "seed": None, "student.stem": "small"}
    recipe = load_recipe(str(small), keys)
    assert recipe.budget == "50k" and recipe.teacher.name == "resnet34"
    assert recipe.student.stem == "small" and recipe.student.name == "resnet18"
    assert recipe.seed == load_recipe(str(small)).seed


def test_an_override_of_a_kind_changes_all_its_stages(small: Path) -> None:
    small.write_text(small.read_text() + '[[stages]]\nkind = "finetune"\nepochs = 2\n')
    recipe = load_recipe(str(small), {"finetune.lr": 0.5, "prune.samples": 7, "stages.5.lr": 0.25})
    rates = [stage.lr for stage in recipe.stages if isinstance(stage, Train)]
    assert rates == [0.1, 0.1, 0.5, 0.25]
    assert [s.samples for s in recipe.stages if isinstance(s, Prune)] == [7]


@pytest.mark.parametrize(
    ("key", "closest"),
    [
        ("budgte", "budget"),
        ("teacher.nmae", "name"),
        ("seed.x", None),
        ("teacher.name.x", None),
        ("sttudent.name", "student"),
        ("finetun.lr", "finetune"),
        ("stages.9.lr", None),
        ("stages.lr", None),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(
    small: Path, key: str, closest: str | None
) -> None:
    with pytest.raises(UserError) as refused:
        load_recipe(str(small), {key: "x"})
    assert key.split(".")[0] in str(refused.value)
    assert closest is None or f"did you mean {closest!r}" in str(refused.value)


def test_the_recipe_and_the_overrides_are_left_as_they_are(table: Table) -> None:
    overrides: Table = {"teacher": {"name": "vgg16"}, "teacher.weights": "t.pth", "prune.scale": 2}
    before = copy.deepcopy((table, overrides))
    changed = apply_overrides(table, overrides)
    assert (table, overrides) == before
    assert changed["teacher"] == {"name": "vgg16", "weights": "t.pth"}
    assert changed["stages"][2]["scale"] == 2


@pytest.mark.parametrize("given", [{"macs": "5M"}, {"macs": "5M", "file_size": "1MB"}])
def test_budgets_of_overrides_replace_all_budgets(table: Table, given: Table) -> None:
    changed = apply_overrides(table | {"file_size": "2MB"}, given)
    assert {key: changed[key] for key in ("budget", "macs", "file_size") if key in changed} == given


def test_an_override_of_none_replaces_no_budget(table: Table) -> None:
    assert apply_overrides(table, {"macs": None}) == table


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("resnet34", {"name": "resnet34", "stem": "small"}),
        ("vgg16", {"name": "vgg16"}),
        ("mynets:build", {"name": "mynets:build"}),
        ("resnets:build", {"name": "resnets:build"}),
        ("trained.pth", {"name": "resnet18", "stem": "small", "weights": "trained.pth"}),
        (Path("trained.pt"), {"name": "resnet18", "stem": "small", "weights": "trained.pt"}),
        ({"name": "vgg16", "head": []}, {"name": "vgg16", "head": []}),
    ],
)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_role_is_a_network_or_a_weights_file(
    role: str, value: Any, expected: Table, table: Table
) -> None:
    table[role]["stem"] = "small"
    assert apply_overrides(table, {role: value})[role] == expected


def test_stem_is_the_students(table: Table) -> None:
    changed = apply_overrides(table, {"stem": "half"})
    assert changed["student"]["stem"] == "half" and "stem" not in changed["teacher"]


@pytest.mark.parametrize("key", ["student", "student.name"])
def test_a_new_network_is_not_the_trained_one_of_the_recipe(key: str, table: Table) -> None:
    table["student"] |= {"weights": "trained.pth", "source": "torchvision"}
    assert apply_overrides(table, {key: "resnet10"})["student"] == {"name": "resnet10"}
    with_weights = {"student.weights": "other.pth", "student.source": "zoo", key: "resnet10"}
    assert apply_overrides(table, with_weights)["student"] == {
        "name": "resnet10",
        "weights": "other.pth",
        "source": "zoo",
    }


@pytest.mark.parametrize(
    "overrides",
    [
        {"student": "trained.pth", "teacher": "resnet34"},
        {"student": "trained.pth", "teacher.name": "resnet34"},
        {"student.weights": "trained.pth", "teacher": {"name": "resnet34"}},
        {"student": {"name": "resnet18", "weights": "trained.pth"}, "teacher": "vgg16"},
    ],
)
def test_a_trained_student_is_refused_an_untrained_teacher(overrides: Table, table: Table) -> None:
    with pytest.raises(UserError, match=r"teacher: .*its own teacher"):
        apply_overrides(table, overrides)
    both = apply_overrides(table, overrides | {"teacher.weights": "teacher.pth"})
    assert both["teacher"]["weights"] == "teacher.pth"
    assert both["student"]["weights"] == "trained.pth"


def test_pretrained_is_both_networks(table: Table) -> None:
    for value in (True, False):
        changed = apply_overrides(table, {"pretrained": value})
        assert changed["teacher"]["pretrained"] is changed["student"]["pretrained"] is value
    named = apply_overrides(table, {"pretrained": True, "student": "vgg16"})
    assert named["student"] == {"name": "vgg16", "pretrained": True}


@pytest.mark.parametrize(
    ("files", "pretrained"),
    [
        ({"teacher": "a.pth"}, ["student"]),
        # A trained student is its own teacher.
        ({"student": "a.pth"}, []),
        ({"teacher": "a.pth", "student": "b.pth"}, []),
    ],
)
def test_trained_networks_need_no_pretrained_weights(
    files: Table, pretrained: list[str], table: Table
) -> None:
    changed = apply_overrides(table, files | {"pretrained": True})
    found = [role for role in ("teacher", "student") if changed[role].get("pretrained")]
    assert found == pretrained


def test_builder_is_that_of_weights_files(table: Table) -> None:
    table["student"]["head"] = [8]
    changed = apply_overrides(table, {"student": "a.pth", "builder": "mine:net"})
    assert changed["student"] == {"name": "mine:net", "weights": "a.pth"}
    assert changed["teacher"] == table["teacher"]
    both = {"student": "a.pth", "teacher": "b.pt", "builder": "mine:net"}
    assert apply_overrides(table, both)["teacher"] == {"name": "mine:net", "weights": "b.pt"}
    with pytest.raises(UserError, match="--student mine:net"):
        apply_overrides(table, {"student": "resnet18", "builder": "mine:net"})


def test_a_role_of_a_wrong_type_is_refused_by_its_key(small: Path) -> None:
    with pytest.raises(UserError, match=r"teacher: must be a table, not 3"):
        load_recipe(str(small), {"teacher": 3})
