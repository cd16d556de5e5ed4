"""Loading recipes: shipped ones, TOML files and run.json; and the checks on a whole recipe."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.recipe.load import (
    load_recipe,
    override_recipe,
    recipe_from_dict,
    recipe_to_dict,
    shipped_recipes,
)
from compress.recipe.schema import Recipe
from compress.recipe.stages import Train
from compress.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
PIPELINES = sorted((ROOT / "pipelines").glob("*.toml"))
BEST = ROOT / "docs" / "experiments" / "recipes" / "fashion-mnist-best.toml"
Table = dict[str, Any]


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_by_name_and_by_path(path: Path) -> None:
    recipe = load_recipe(path.stem)
    assert recipe == load_recipe(str(path))
    assert recipe.title and shipped_recipes()[path.stem].read_text() == path.read_text()


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_a_recipe_survives_the_way_through_json(path: Path) -> None:
    recipe = load_recipe(str(path))
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe)))) == recipe


def test_the_default_recipe_is_shipped() -> None:
    assert "default" in shipped_recipes()


def test_the_best_recipe_reuses_the_logits_of_its_views() -> None:
    """Its teacher costs far more time than its students; most epochs must read cached logits."""
    stages = load_recipe(BEST).stages
    trained = [stage for stage in stages if isinstance(stage, Train) and stage.kind != "teach"]
    computed = sum(
        min(stage.views or stage.epochs, stage.epochs) for stage in trained if stage.alpha != 0
    )
    assert computed <= sum(stage.epochs for stage in trained) / 3


def test_an_unknown_recipe_is_refused_with_the_closest_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'defualt'.*'default'"):
        load_recipe("defualt")
    with pytest.raises(UserError, match="no recipe") as refused:
        load_recipe(str(tmp_path))
    assert repr(str(tmp_path)) in str(refused.value)
    with pytest.raises(UserError, match="no recipe 'xxx"):
        load_recipe("x" * 300)


@pytest.mark.parametrize(
    "text", [b"budget = ", b"\xff\xfe", b"[teacher\nname = 3", b"x = 1\nx = 2"]
)
def test_a_file_that_is_not_toml_is_refused_in_one_line(text: bytes, tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_bytes(text)
    with pytest.raises(UserError, match=r"broken\.toml: not TOML") as refused:
        load_recipe(str(broken))
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_without_keys_is_refused_as_empty(tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.write_text("# Nothing yet.\n")
    with pytest.raises(UserError, match=r"empty\.toml: is empty"):
        load_recipe(str(empty))


def test_a_byte_order_mark_is_skipped(small: Path, tmp_path: Path) -> None:
    marked = tmp_path / "marked.toml"
    marked.write_text(small.read_text(), encoding="utf-8-sig")
    assert load_recipe(str(marked)) == load_recipe(str(small))


def test_an_experiment_is_refused_with_the_command_that_runs_it(tmp_path: Path) -> None:
    path = tmp_path / "views.toml"
    path.write_text('recipe = "default"\n[grid]\nseed = [0]\n')
    with pytest.raises(UserError, match=re.escape(f"`compress experiment {path}`")):
        load_recipe(str(path))


@pytest.mark.parametrize("module", ["compress", "compress.recipe.schema", "compress.cli.main"])
def test_loading_a_recipe_does_not_import_torch(module: str) -> None:
    code = (
        f"import sys, {module}, compress.recipe.load as load;"
        "assert load.load_recipe('default').stages; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def write_run(
    folder: Path, recipe: Recipe, kinds: tuple[str, ...], changes: Table | None = None
) -> Path:
    """Write the run.json of a run of `recipe`, and an empty weights file for each stage."""
    stages = [{"kind": kind, "checkpoint": f"stages/{kind}.pth"} for kind in kinds]
    (folder / "stages").mkdir()
    for stage in stages:
        (folder / stage["checkpoint"]).touch()
    run = {"recipe": recipe_to_dict(recipe), "stages": stages} | (changes or {})
    (folder / "run.json").write_text(json.dumps(run))
    return folder / "run.json"


def test_a_run_is_repeated_from_its_own_copies_of_trained_networks(
    small: Path, tmp_path: Path
) -> None:
    trained = {"teacher.weights": "gone.pth", "student.weights": "also-gone.pth"}
    recipe = load_recipe(str(small), trained)
    path = write_run(tmp_path, recipe, ("teach", "distill"))
    again = load_recipe(str(path))
    assert again.teacher.weights == str(tmp_path / "stages/teach.pth")
    assert again.student.weights == str(tmp_path / "stages/distill.pth")
    # Without its copy the run names the file that it started from.
    (tmp_path / "stages/teach.pth").unlink()
    assert load_recipe(str(path)).teacher.weights == "gone.pth"


def test_a_run_that_trained_its_networks_trains_them_again(small: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(small))
    path = write_run(tmp_path, recipe, ("teach", "distill", "prune", "finetune"))
    assert load_recipe(str(path)) == recipe
    assert load_recipe(str(path), {"budget": "50k"}).budget == "50k"


@pytest.mark.parametrize(
    "changes", [{"recipe": None}, {"recipe": [1]}, {"recipe": "default"}, {"stages": 3}]
)
def test_json_that_is_not_of_a_run_is_refused(changes: Table, small: Path, tmp_path: Path) -> None:
    path = write_run(tmp_path, load_recipe(str(small)), ("teach",), changes)
    with pytest.raises(UserError, match=r"run\.json: not the run\.json of a run"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    "overrides", [{"epochs": -1}, {"data": "fashion-mnits"}, {"budget": "much"}, {"batch_size": 0}]
)
def test_a_wrong_override_is_not_blamed_on_the_file(
    small: Path, tmp_path: Path, overrides: Table
) -> None:
    [key] = overrides
    with pytest.raises(UserError) as refused:
        load_recipe(str(small), overrides)
    assert str(small) not in str(refused.value) and key.rstrip("s") in str(refused.value)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(f"batch_size = -1\n{small.read_text()}")
    with pytest.raises(UserError, match=f"{re.escape(str(wrong))}: batch_size"):
        load_recipe(str(wrong), {"seed": 1})


def test_overriding_a_recipe_validates_it_again(small: Path) -> None:
    recipe = load_recipe(str(small))
    assert override_recipe(recipe, {}) is recipe
    changed = override_recipe(recipe, {"finetune.epochs": 3, "teacher": "resnet34"})
    assert changed.stages[-1].epochs == 3 and changed.teacher.name == "resnet34"  # type: ignore[union-attr]
    assert recipe == load_recipe(str(small))
    with pytest.raises(UserError, match=r"stages\.4\.epochs: .*greater than 0"):
        override_recipe(recipe, {"finetune.epochs": 0})


T, D, P, F = ("teach", "distill", "prune", "finetune")


@pytest.mark.parametrize(
    "kinds", [(T, D), (D,), (D, P), (T, D, P, F), (D, P, F, P, F), (D, F, P, P), (T, D, P, P, F, F)]
)
def test_stages_may_come_in_this_order(kinds: tuple[str, ...]) -> None:
    assert [stage.kind for stage in of_kinds(kinds).stages] == list(kinds)


@pytest.mark.parametrize(
    "kinds",
    [
        (),
        (T,),
        (P,),
        (T, P),
        (D, T),
        (P, D),
        (F, D),
        (T, P, D),
        (T, D, T),
        (D, P, D),
        (T, T, D),
        (T, D, F, T),
    ],
)
def test_stages_in_another_order_are_refused(kinds: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"^recipe: stages: "):
        of_kinds(kinds)


def of_kinds(kinds: tuple[str, ...]) -> Recipe:
    stages = [{"kind": kind} | ({} if kind == P else {"epochs": 1}) for kind in kinds]
    networks = {"teacher": {"name": "a"}, "student": {"name": "b"}}
    return recipe_from_dict({"budget": "1k", "stages": stages} | networks)


@pytest.mark.parametrize("source", ["student", "previous"])
def test_before_the_first_cut_only_the_teacher_can_be_distilled_from(
    source: str, table: Table
) -> None:
    table["stages"][3]["distill_from"] = source
    assert recipe_from_dict(table).stages[3].distill_from == source  # type: ignore[union-attr]
    table["stages"][1]["distill_from"] = source
    with pytest.raises(UserError, match=rf"stages\.2\.distill_from: '{source}'"):
        recipe_from_dict(table)


def test_channels_are_pruned_before_weights(table: Table) -> None:
    stages = table["stages"]
    table["stages"] = [*stages, {"kind": "prune", "mode": "weights"}]
    assert recipe_from_dict(table).stages[-1].mode == "weights"  # type: ignore[union-attr]
    table["stages"] = [*stages[:2], {"kind": "prune", "mode": "weights"}, *stages[2:]]
    with pytest.raises(UserError, match="stages: mode 'channels' must come before mode 'weights'"):
        recipe_from_dict(table)


def test_pruning_needs_a_budget(table: Table) -> None:
    del table["budget"]
    with pytest.raises(UserError, match=r"budget: .*macs.*file_size"):
        recipe_from_dict(table)
    assert recipe_from_dict(table | {"macs": "5M"}).budgets().keys() == {"macs"}
    table["stages"] = table["stages"][:2]
    assert recipe_from_dict(table).budgets() == {}


@pytest.mark.parametrize(
    ("network", "remedy"),
    [
        ({"name": "resnet18"}, "set pretrained = true"),
        ({"name": "resnet18", "pretrained": True, "stem": "small"}, "leave stem out"),
        ({"name": "resnet18", "pretrained": True}, None),
        ({"name": "resnet18", "weights": "trained.pth"}, None),
        ({"name": "efficientnet_b0", "pretrained": True, "stem": "small"}, None),
        ({"name": "mine:net"}, None),
    ],
)
def test_random_weights_are_not_frozen(network: Table, remedy: str | None) -> None:
    stages = [{"kind": "distill", "epochs": 1, "freeze": "backbone"}]
    table = {"budget": "1M", "teacher": {"name": "resnet18"}, "student": network, "stages": stages}
    later = {"kind": "finetune", "epochs": 1, "freeze": "backbone"}
    if remedy is None:
        frozen = recipe_from_dict(table | {"stages": [*stages, later]}).stages
        assert [stage.freeze for stage in frozen] == ["backbone"] * 2  # type: ignore[union-attr]
    else:
        with pytest.raises(UserError, match=rf"stages\.1\.freeze: .*{network['name']}.*{remedy}"):
            recipe_from_dict(table)
        # By the time of fine-tuning the backbone is trained.
        trained = recipe_from_dict(table | {"stages": [{"kind": "distill", "epochs": 1}, later]})
        assert trained.stages[1].freeze == "backbone"  # type: ignore[union-attr]


def test_a_frozen_teacher_needs_trained_weights_too(table: Table) -> None:
    table["stages"][0]["freeze"] = "backbone"
    with pytest.raises(UserError, match=r"stages\.1\.freeze"):
        recipe_from_dict(table)
    table["teacher"]["pretrained"] = True
    assert recipe_from_dict(table).stages[0].freeze == "backbone"  # type: ignore[union-attr]
