"""Recipes as TOML: short, and the same recipe again."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.recipe.load import load_recipe, shipped_recipes
from compress.recipe.write_toml import recipe_to_toml


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_written_recipe_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, {"data": 'folder:a "b" \\ ü', "seed": 7})
    text = recipe_to_toml(recipe)
    (tmp_path / "written.toml").write_text(text, encoding="utf-8")
    assert load_recipe(str(tmp_path / "written.toml")) == recipe
    assert "null" not in text and "weight_decay = 0.0005" not in text
