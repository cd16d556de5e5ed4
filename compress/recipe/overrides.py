"""What flags and experiments lay over a recipe's keys: plain data in, plain data out. Free of torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.recipe.budget import KEYS
from compress.recipe.model_spec import STEMMED
from compress.runtime.errors import UserError, nearest

KINDS = ("teach", "distill", "prune", "finetune")  # of stages


def lay_over(plain: dict[str, Any], overrides: dict[str, Any], where: str = "recipe") -> dict[str, Any]:
    """A recipe's plain data with `overrides` laid over its keys; what they may be, see `compress.recipe.schema.load`.

    Budgets among the overrides take the place of all that the recipe has. The tables in `plain` are written to; `where`
    is what the recipe is called.

    Raises:
        UserError: a key leads to nothing that the recipe has, or a trained student meets a teacher that is none yet.
    """
    if any(overrides.get(key) is not None for key in KEYS):
        plain = {key: value for key, value in plain.items() if key not in KEYS}
    given = dict(_spelled_out(k, v) for k, v in overrides.items() if v is not None)
    if "start" in given and "weights" not in given and not given.keys().isdisjoint(("teacher", "teacher.name")):
        raise UserError("a trained student is its own teacher, or give the weights file of another")
    for key, value in given.items():
        *names, leaf = key.split(".")
        for table in _tables(plain, names, f"{key}: there is nothing of that name in {where}"):
            table[leaf] = value
        for role, kept in (("teacher", "weights"), ("student", "start")):
            if key in (role, f"{role}.name") and not overrides.get(kept):  # to be trained, not the trained one
                plain.pop(kept, None)
    return plain


def _tables(plain: dict[str, Any], names: list[str], refusal: str) -> list[dict[str, Any]]:
    """The tables that `names` lead to: every stage of a kind, one stage by its number, or a table of the recipe."""
    first, known = names[:1], ("teacher", "student", "stages", *KINDS)
    if first and first[0] not in known:
        raise UserError(refusal + nearest(first[0], known))
    if first and first[0] not in ("teacher", "student"):
        stages = plain.get("stages")
        numbered = enumerate(stages if isinstance(stages, list | tuple) else (), start=1)
        places = [(n, stage) for n, stage in numbered if isinstance(stage, dict)]
        if not (chosen := [stage for n, stage in places if names in (["stages", str(n)], [stage.get("kind")])]):
            raise UserError(refusal)
        return chosen
    table = plain
    for name in names:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise UserError(f"{refusal}: {name} is no table")
    return [table]


def _spelled_out(key: str, value: Any) -> tuple[str, Any]:
    """A short form as the recipe's own key and its value."""
    if key == "stem":
        return "student.stem", value
    if key in ("teacher", "student") and isinstance(value, str | Path) and Path(value).suffix in (".pth", ".pt"):
        return "weights" if key == "teacher" else "start", str(value)
    if key in ("teacher", "student") and isinstance(value, str):
        stems = value.startswith(STEMMED)  # others take none, whatever the recipe's takes
        return (f"{key}.name", value) if stems else (key, {"name": value})
    return key, value
