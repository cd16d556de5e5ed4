"""Recipes as TOML, as short as they can be. Does not import torch."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from compress.recipe.schema import Recipe

# Tables of a recipe, which come after its keys.
TABLES = ("small_data", "teacher", "student")


def recipe_to_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML, without the keys that have their default.

    Example:
        >>> print(recipe_to_toml(load_recipe("default")).splitlines()[1])
        data = "fashion-mnist"
    """
    keys = {"data": recipe.data} | _changed(recipe)
    blocks = [_block("", {k: v for k, v in keys.items() if k not in (*TABLES, "stages")})]
    for name in TABLES:
        if (part := getattr(recipe, name)) is not None:
            blocks.append(_block(f"[{name}]", _changed(part)))
    for stage in recipe.stages:
        blocks.append(_block("[[stages]]", {"kind": stage.kind} | _changed(stage)))
    return "\n".join(blocks)


def _changed(part: Any) -> dict[str, Any]:
    """Return the keys of a part of a recipe whose values are not their defaults."""
    found = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        # TOML cannot say that there is none.
        if value is not None and (field.default is dataclasses.MISSING or value != field.default):
            found[field.name] = value
    return found


def _block(heading: str, keys: dict[str, Any]) -> str:
    lines = [heading] if heading else []
    # Text, numbers, lists, true and false are written alike in JSON and TOML.
    lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"
