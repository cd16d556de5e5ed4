"""Validation messages: one line that names the key, what is wrong, and the closest right word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.recipe.load import load_recipe, recipe_from_dict
from compress.recipe.stages import STAGE_TYPES
from compress.runtime.errors import UserError

Table = dict[str, Any]
Change = Callable[[Table], None]
KINDS = tuple(STAGE_TYPES)


def put(*path: Any, value: Any) -> Change:
    def change(table: Table) -> None:
        *outer, leaf = path
        for part in outer:
            table = table[part]
        table[leaf] = value

    return change


def drop(*path: Any) -> Change:
    def change(table: Table) -> None:
        *outer, leaf = path
        for part in outer:
            table = table[part]
        del table[leaf]

    return change


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        # Unknown keys, with the closest known one of the same table.
        (put("budgets", value=3), "budgets", ["unknown key", "'budget'"]),
        (put("teacher", "nam", value="x"), "teacher.nam", ["unknown key", "'name'"]),
        (put("teacher", "na\x85m", value="x"), "teacher.na\\x85m", ["unknown key", "'name'"]),
        (put("stages", 0, "epoch", value=3), "stages.1.epoch", ["unknown key", "'epochs'"]),
        (put("stages", 2, "sampels", value=3), "stages.3.sampels", ["unknown key", "'samples'"]),
        (put("stages", 0, "importance", value="taylor"), "stages.1.importance", ["unknown key"]),
        # Kinds of stages.
        (put("stages", 1, "kind", value="distil"), "stages.2.kind", ["'distil'", *KINDS]),
        (put("stages", 1, "kind", value=3), "stages.2.kind", ["unknown 3", *KINDS]),
        (drop("stages", 1, "kind"), "stages.2.kind", ["missing", *KINDS]),
        # Missing keys.
        (drop("stages", 1, "epochs"), "stages.2.epochs", ["missing"]),
        (drop("teacher"), "teacher", ["missing"]),
        (drop("student", "name"), "student.name", ["missing"]),
        # Types.
        (put("student", "head", value=256), "student.head", ["a list", "256"]),
        (put("student", "head", value=["256"]), "student.head.1", ["a whole number", "'256'"]),
        (put("teacher", value="resnet50"), "teacher", ["a table", "'resnet50'"]),
        (put("stages", value=3), "stages", ["a list", "3"]),
        (put("stages", 0, value="prune"), "stages.1", ["a table", "'prune'"]),
        (put("stages", 0, "fade", value=1), "stages.1.fade", ["true or false", "1"]),
        (put("stages", 0, "epochs", value="three"), "stages.1.epochs", ["a number", "'three'"]),
        (put("stages", 0, "epochs", value=True), "stages.1.epochs", ["a number", "not true"]),
        (put("minutes", value="30"), "minutes", ["a number", "'30'"]),
        (put("stages", 0, "lr", value="1e-3"), "stages.1.lr", ["a number", "'1e-3'"]),
        (put("data", value=3), "data", ["text in quotes", "3"]),
        # Choices.
        (put("stages", 1, "freeze", value="head"), "stages.2.freeze", ["'backbone'", "'head'"]),
        (
            put("student", "stem", value="tiny"),
            "student.stem",
            ["'half', 'pool' or 'small'", "'tiny'"],
        ),
        (
            put("teacher", "pretrained", value=1),
            "teacher.pretrained",
            ["true, false or the name of weights in quotes", "not 1"],
        ),
        (put("stages", 0, "flip", value=1), "stages.1.flip", ["'auto', true or false", "not 1"]),
        (put("stages", 0, "flip", value="no"), "stages.1.flip", ["'auto', true or false", "'no'"]),
        (
            put("stages", 0, "compile", value="yes"),
            "stages.1.compile",
            ["'auto', true or false", "'yes'"],
        ),
        (
            put("stages", 0, "optimizer", value="adam"),
            "stages.1.optimizer",
            ["'sgd', 'adamw', 'muon' or 'auto'", "not 'adam'", "did you mean 'adamw'"],
        ),
        # Names of registries.
        (
            put("stages", 1, "method", value="fitnet"),
            "stages.2.method",
            ["unknown method 'fitnet'", "did you mean 'fitnets'", "stagewise"],
        ),
        (
            put("stages", 2, "importance", value="tailor"),
            "stages.3.importance",
            ["unknown importance 'tailor'", "did you mean 'taylor'", "magnitude"],
        ),
        (
            put("data", value="cifar-10"),
            "data",
            ["unknown data set 'cifar-10'", "did you mean 'cifar10'", "folder:PATH"],
        ),
        (put("background", value="whte"), "background", ["'whte' is not a colour", "'white'"]),
        (put("student", "source", value="zoo:"), "student.source", ["'custom'", "'zoo:'"]),
        (put("student", "source", value="custom"), "student", ["'custom'", "'resnet18'"]),
        # Ranges.
        (put("stages", 0, "epochs", value=0), "stages.1.epochs", ["greater than 0", "not 0"]),
        (put("minutes", value=0), "minutes", ["greater than 0", "not 0"]),
        (put("stages", 0, "lr", value=float("nan")), "stages.1.lr", ["finite", "nan"]),
        (put("stages", 0, "crop", value=[0.5, 1.5]), "stages.1.crop.2", ["equal to 1", "1.5"]),
        (put("stages", 0, "crop", value=[0, 1]), "stages.1.crop.1", ["greater than 0", "not 0"]),
        (put("stages", 0, "crop", value=[0.5]), "stages.1.crop.2", ["missing"]),
        (put("stages", 0, "crop", value=[0.9, 0.5]), "stages.1.crop", ["smaller", "[0.9, 0.5]"]),
        (put("seed", value=-1), "seed", ["equal to 0", "not -1"]),
        (put("data_fraction", value=2), "data_fraction", ["equal to 1", "not 2"]),
        (put("image_size", value=2000), "image_size", ["equal to 1024", "not 2000"]),
        (put("max_images", value=0), "max_images", ["equal to 1", "not 0"]),
        # Budgets.
        (put("budget", value=True), "budget", ["100k", "5%", "not true"]),
        (put("speedup", value=True), "speedup", ["5x", "not true"]),
        (put("budget", value=1.5), "budget", ["100k", "5%", "not 1.5"]),
        (put("file_size", value=[1]), "file_size", ["400KB", "5%", "not [1]"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_reported_with_its_key(
    change: Change, key: str, words: list[str], table: Table
) -> None:
    change(table)
    message = refuse(table)
    assert message.startswith(f"mine.toml: {key}: ")
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("budget", "5k%"),
        ("budget", 0),
        ("macs", "5KB"),
        ("file_size", "100%"),
        ("latency", "5"),
        ("latency", "0.1ns"),
        ("speedup", "fast"),
    ],
)
def test_a_budget_that_is_not_understood_is_named_and_quoted(
    key: str, value: Any, table: Table
) -> None:
    table[key] = value
    assert refuse(table).startswith(f"mine.toml: {key} {str(value)!r}")


def test_a_time_without_its_unit_is_refused_with_some(table: Table) -> None:
    table["latency"] = "5"
    assert "0.4ms" in refuse(table) and "unit" in refuse(table)


def refuse(table: Table) -> str:
    """Return the message that refuses `table`; it is one line."""
    with pytest.raises(UserError) as refused:
        recipe_from_dict(table, where="mine.toml")
    message = str(refused.value)
    assert len(message.splitlines()) == 1 and "(and" not in message
    return message


def test_further_mistakes_are_counted(small: Path) -> None:
    text = small.read_text().replace('kind = "prune"', 'kind = "prune"\nsampels = 3')
    small.write_text(text.replace("epochs = 5", "epochs = 0"))
    with pytest.raises(UserError, match=r"stages\.2\.epochs: .* \(and 1 more\)"):
        load_recipe(str(small))


def test_a_misspelt_key_comes_before_the_one_that_is_missing(table: Table) -> None:
    table["teacher"] = {"nam": "resnet18"}
    with pytest.raises(UserError, match=r"teacher\.nam: unknown key .*'name'"):
        recipe_from_dict(table)


def test_a_long_value_is_shortened(table: Table) -> None:
    table["stages"][0]["optimizer"] = "x" * 1000
    assert len(refuse(table)) < 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["budget", "data", "minutes", "stages", "teacher", "student", "seed", "title"]
)


@given(st.dictionaries(KEYS, JSON, min_size=1))
def test_any_data_is_a_recipe_or_refused_in_one_line(changes: Table) -> None:
    table = {
        "budget": "1k",
        "teacher": {"name": "a"},
        "student": {"name": "b"},
        "stages": [{"kind": "distill", "epochs": 1}],
    }
    try:
        recipe = recipe_from_dict(table | changes)
    except UserError as error:
        assert str(error).startswith("recipe: ") and len(str(error).splitlines()) == 1
    else:
        assert recipe.stages[0].kind == "distill"
