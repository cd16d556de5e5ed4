"""Data in memory in place of a recipe's data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_checkpoints import make_checkpoint

from compress.data.open_dataset import open_dataset
from compress.pipeline.in_hand import Given, to_recipe
from compress.pipeline.pretrained import merge_trained
from compress.recipe.in_memory import find_held, holding
from compress.recipe.load import load_recipe, shipped_recipes

KEYS = {"background": "black", "image_size": 6}
TABLE: dict[str, Any] = {
    "teacher": {"name": "resnet10"},
    "student": {"name": "resnet10"},
    "stages": [{"kind": "teach", "epochs": 1}, {"kind": "distill", "epochs": 1}],
}


@pytest.mark.parametrize("form", ["mapping", "file", "recipe", "override"])
def test_data_are_read_as_the_recipe_says(form: str, tmp_path: Path) -> None:
    """Transparent images of several sizes."""
    data = ([Image.new("RGBA", (side, side)) for side in (8, 10, 9, 12)], [0, 1, 0, 1])
    file, shipped = tmp_path / "own.toml", shipped_recipes()["default"].read_text()
    file.write_text('background = "black"\nimage_size = 6\n' + shipped)
    recipe: Any = {
        "mapping": TABLE | KEYS,
        "file": file,
        "recipe": load_recipe("default", KEYS),
        "override": "default",
    }[form]
    with holding():
        found, _ = to_recipe(recipe, {"data": data} | (KEYS if form == "override" else {}), Given())
        source = find_held(found.data)
    assert source.train.pixels.shape[1:] == (3, 6, 6) and not source.train.pixels.any()
    assert source.background == "#000000"


@pytest.mark.parametrize("form", ["mapping", "override"])
def test_a_name_takes_the_place_of_data(form: str) -> None:
    data = ([Image.new("L", (8, 8))] * 4, [0, 1, 0, 1])
    table = TABLE | {"data": data}
    with holding():
        named, _ = to_recipe(table, {"data": "mnist" if form == "override" else None}, Given())
    assert (named.data == "mnist") == (form == "override")
    assert "data" in table


def test_the_background_is_that_on_which_images_in_memory_lie() -> None:
    """A trained teacher may have another one."""
    teacher = replace(make_checkpoint("resnet10", classes=2), background="#000000")
    data = ([Image.new("RGBA", (8, 8))] * 8, [*teacher.classes] * 4)
    with holding():
        recipe, _ = to_recipe(TABLE, {"data": (data, data)}, Given())
        opened = open_dataset(recipe.data)
    _, merged = merge_trained(recipe, opened, {"teacher": teacher})
    assert merged.background == "#ffffff"
