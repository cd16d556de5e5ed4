"""Overrides: what flags, experiments and Python arguments change in a recipe's plain data. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.recipe.budget import BUDGET_KEYS
from compress.recipe.model_spec import FAMILIES_WITH_STEM
from compress.recipe.schema import STAGE_TYPES
from compress.runtime.errors import UserError, did_you_mean

ROLES = ("teacher", "student")


def apply_overrides(
    table: dict[str, Any], overrides: dict[str, Any], where: str = "recipe"
) -> dict[str, Any]:
    """Apply `overrides` to a recipe's plain data.

    Keys may be dotted: ``teacher.name``; ``finetune.epochs``, of all stages of that kind; ``stages.2.alpha``, of
    the second stage. As on the command line, a plain ``teacher`` or ``student`` is a network's name or a weights
    file, and ``stem`` is the student's. A value of None is no override.

    Args:
        table: the recipe's plain data; nested tables are changed in place.
        where: what messages call the recipe.

    Returns:
        The new table. Budgets among the overrides replace all budgets of the recipe.

    Raises:
        UserError: a key leads nowhere, or a trained student is combined with an untrained teacher.
    """
    if any(overrides.get(key) is not None for key in BUDGET_KEYS):
        table = {key: value for key, value in table.items() if key not in BUDGET_KEYS}
    changes = dict(_expand(key, value) for key, value in overrides.items() if value is not None)
    teacher = changes.get("teacher", {"name": changes.get("teacher.name")})
    weights = changes.get("teacher.weights") or teacher.get("weights")
    if changes.get("student.weights") and teacher.get("name") and not weights:
        raise UserError(
            "a trained student is its own teacher; or pass the weights file of another one"
        )
    for key, value in _names_first(changes):
        *path, leaf = key.split(".")
        for target in _find_tables(table, path, f"{key}: there is nothing of that name in {where}"):
            if leaf == "name" and path and path[0] in ROLES:
                # A network that is named is built anew.
                target.pop("weights", None)
                target.pop("source", None)
            target[leaf] = value
    return table


def _names_first(changes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield networks' names before their weights."""
    return iter(sorted(changes.items(), key=lambda item: item[0].endswith(".weights")))


def _find_tables(table: dict[str, Any], path: list[str], refusal: str) -> list[dict[str, Any]]:
    """Return the tables at `path`: all stages of a kind, one stage by its number, or a nested table."""
    first, known = path[:1], (*ROLES, "stages", *STAGE_TYPES)
    if first and first[0] not in known:
        raise UserError(refusal + did_you_mean(first[0], known))
    if first and first[0] not in ROLES:
        stages = table.get("stages")
        numbered = enumerate(stages if isinstance(stages, list | tuple) else (), start=1)
        found = [
            stage
            for number, stage in numbered
            if isinstance(stage, dict) and path in (["stages", str(number)], [stage.get("kind")])
        ]
        if not found:
            raise UserError(refusal)
        return found
    for name in path:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UserError(f"{refusal}: {name} is not a table")
    return [table]


def _expand(key: str, value: Any) -> tuple[str, Any]:
    """Expand a short form to the recipe's own key and value."""
    if key == "stem":
        return "student.stem", value
    if key in ROLES and isinstance(value, str | Path):
        if Path(value).suffix in (".pth", ".pt"):
            return f"{key}.weights", str(value)
        # Other families have no stem, whatever the recipe says.
        has_stem = str(value).startswith(FAMILIES_WITH_STEM)
        return (f"{key}.name", value) if has_stem else (key, {"name": str(value)})
    return key, value
