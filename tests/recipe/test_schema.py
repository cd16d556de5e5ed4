"""The schema of recipes: values that are read, derived and documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from compress.recipe.load import load_recipe, recipe_from_dict, recipe_to_dict
from compress.recipe.registry import IMPORTANCES, METHODS
from compress.recipe.schema import QUICK_IMAGES, Recipe
from compress.recipe.stages import Augment, Prune, Train

ROOT = Path(__file__).parents[2]
RECIPES = sorted([*ROOT.glob("pipelines/*.toml"), *ROOT.glob("docs/experiments/recipes/*.toml")])
SCHEMA = TypeAdapter(Recipe).json_schema()
Table = dict[str, Any]


def test_quick_keeps_the_stages_and_shrinks_their_cost(small: Path) -> None:
    full = load_recipe(str(small))
    quick = full.quick()
    assert [stage.kind for stage in quick.stages] == [stage.kind for stage in full.stages]
    trained = [stage for stage in quick.stages if isinstance(stage, Train)]
    assert [stage.epochs for stage in trained] == [5, 1, 7]
    assert [stage.compile for stage in trained] == [False] * 3
    assert quick.max_images == QUICK_IMAGES
    assert load_recipe(str(small), {"max_images": 10}).quick().max_images == 10
    assert quick.teacher == full.teacher and quick.budget == full.budget
    pruned = [stage for stage in full.stages if isinstance(stage, Prune)]
    assert [stage for stage in quick.stages if isinstance(stage, Prune)] == pruned


@pytest.mark.parametrize("value", ["auto", True, False])
def test_compile_is_automatic_unless_set(small: Path, value: Any) -> None:
    assert load_recipe(str(small)).stages[0].compile == "auto"  # type: ignore[union-attr]
    recipe = load_recipe(str(small), {"finetune.compile": value})
    assert recipe.stages[-1].compile is value  # type: ignore[union-attr]
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe)))) == recipe


def test_epochs_may_be_fractions_and_whole_numbers_stay_whole(small: Path) -> None:
    text = small.read_text().replace("epochs = 20", "epochs = 0.7")
    small.write_text(text.replace("epochs = 5", "epochs = 5.0"))
    recipe = load_recipe(str(small))
    assert json.dumps([s.epochs for s in recipe.stages if isinstance(s, Train)]) == "[0.7, 5, 30]"
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(recipe)))) == recipe
    assert [s.epochs for s in recipe.quick().stages if isinstance(s, Train)] == [0.7, 1, 7]


@given(st.floats(1e-3, 1e6))
def test_quick_never_lengthens_a_stage(epochs: float) -> None:
    table = {"teacher": {"name": "a"}, "student": {"name": "b"}}
    recipe = recipe_from_dict(table | {"stages": [{"kind": "distill", "epochs": epochs}]})
    (stage,) = recipe.quick().stages
    assert isinstance(stage, Train) and 0 < stage.epochs <= epochs
    assert stage.epochs <= max(1, epochs / 4)


@pytest.mark.parametrize(
    ("flip", "mirrors", "expected"),
    [("auto", True, True), ("auto", False, False), (True, False, True), (False, True, False)],
)
def test_flip_follows_the_data_unless_set(flip: Any, mirrors: bool, expected: bool) -> None:
    stage = Train(kind="teach", epochs=1, flip=flip, crop=(0.3, 0.9), erase_prob=0.5)
    assert stage.augment(mirrors) == Augment(crop=(0.3, 0.9), flip=expected, erase_prob=0.5)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_validate_against_the_json_schema(path: Path) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert list(Draft202012Validator(SCHEMA).iter_errors(tomllib.loads(path.read_text()))) == []


@pytest.mark.parametrize(
    "change",
    [
        {"budgte": "100k"},
        {"data": "cifar-10"},
        {"seed": -1},
        {"teacher": "resnet50"},
        {"teacher": {"name": "resnet50", "stem": "tiny"}},
        {"stages": [{"epochs": 1}]},
        {"stages": [{"mode": "channels"}]},
        {"stages": [{"kind": "distil", "epochs": 1}]},
        {"stages": [{"kind": "distill", "epochs": 0}]},
        {"stages": [{"kind": "distill", "epochs": 1, "method": "fitnet"}]},
        {"stages": [{"kind": "prune", "importance": "tailor"}]},
        {"stages": [{"kind": "prune", "epochs": 1}]},
    ],
    ids=str,
)
def test_the_json_schema_refuses_mistakes(change: Table, table: Table) -> None:
    validator = Draft202012Validator(SCHEMA)
    assert validator.is_valid(table) and not validator.is_valid(table | change)


@pytest.mark.parametrize("data", ["folder:photos", "csv:labels.csv", "hf:owner/name"])
def test_data_at_a_place_is_valid_in_the_json_schema(table: Table, data: str) -> None:
    assert Draft202012Validator(SCHEMA).is_valid(table | {"data": data})
    assert not Draft202012Validator(SCHEMA).is_valid(table | {"data": data.replace(":", "=")})


def test_every_key_is_documented() -> None:
    tables = {"Recipe": SCHEMA} | SCHEMA["$defs"]
    keys = [(name, key) for name, table in tables.items() for key in table["properties"]]
    assert len(keys) > 50
    undocumented = [
        (name, key) for name, key in keys if not tables[name]["properties"][key].get("description")
    ]
    assert undocumented == []
    assert all(table["description"] for table in tables.values())


def test_the_json_schema_lists_choices_and_tells_stages_apart_by_kind() -> None:
    stages = SCHEMA["$defs"]
    assert stages["Train"]["properties"]["method"]["enum"] == list(METHODS.names())
    assert stages["Prune"]["properties"]["importance"]["enum"] == list(IMPORTANCES.names())
    assert all(
        "kind" in stages[name]["required"] and not stages[name]["additionalProperties"]
        for name in ("Train", "Prune")
    )
    discriminator = SCHEMA["properties"]["stages"]["items"]["discriminator"]
    assert discriminator["propertyName"] == "kind"
    assert set(discriminator["mapping"]) == {
        *("teach", "distill", "finetune", "prune"),
        "quantize",
    }


def test_the_recipe_in_the_documentation_is_valid() -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert recipe_from_dict(tomllib.loads(example)).budget == "100k"


def test_the_table_of_keys_in_the_documentation_is_up_to_date() -> None:
    script = ROOT / "docs" / "generate_recipe_keys.py"
    checked = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_a_stale_table_of_keys_is_found(tmp_path: Path) -> None:
    script = ROOT / "docs" / "generate_recipe_keys.py"
    page = tmp_path / "recipes.md"
    page.write_text((ROOT / "docs" / "recipes.md").read_text().replace("`batch_size`", "`batch`"))
    command = [sys.executable, str(script), str(page)]
    stale = subprocess.run([*command, "--check"], capture_output=True, text=True, check=False)
    assert stale.returncode == 1 and "recipes.md" in stale.stderr
    subprocess.run(command, check=True)
    assert page.read_text() == (ROOT / "docs" / "recipes.md").read_text()
