"""Experiment files: a grid over recipe keys, and the rows it expands to. Does not import torch."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic.dataclasses import dataclass

from compress.recipe.load import validate_table
from compress.recipe.stages import CONFIG
from compress.runtime.errors import UserError
from compress.runtime.files import require_file
from compress.runtime.plain_files import read_toml


def _flatten(table: Any, prefix: str = "") -> Any:
    """Flatten nested tables to dotted keys: TOML reads `distill.alpha` without quotes as tables."""
    if not isinstance(table, dict):
        return table
    flat: dict[str, Any] = {}
    for key, value in table.items():
        nested = isinstance(value, dict)
        flat |= _flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _count_seeds(seeds: Any) -> Any:
    if type(seeds) is int:
        _check_count(seeds)
        return list(range(seeds))
    if isinstance(seeds, tuple | range):
        return list(seeds)
    if not isinstance(seeds, list):
        raise ValueError("must be a whole number, or a list of them")
    return seeds


def _check_count(count: int) -> None:
    if count > MAX_TRIALS:
        raise ValueError(f"must be at most {MAX_TRIALS}")


def _check_distinct(values: list[Any]) -> list[Any]:
    _check_count(len(values))
    if not values or any(value in values[:index] for index, value in enumerate(values)):
        raise ValueError("must name one value or more, each once")
    return values


# Every trial is planned before the first one is run.
MAX_TRIALS = 1000

Keys = Annotated[dict[str, Any], BeforeValidator(_flatten)]
Values = Annotated[list[Any], AfterValidator(_check_distinct)]
Grid = Annotated[dict[str, Values], BeforeValidator(_flatten)]
Seeds = Annotated[list[int], BeforeValidator(_count_seeds), AfterValidator(_check_distinct)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Experiment:
    """The content of an experiment file.

    Recipe keys are written as for `compress.recipe.overrides.apply_overrides`: `max_images`,
    `teacher.stem`, `distill.alpha`. Paths in them are relative to the current directory.
    """

    recipe: str = "default"
    """Name of a shipped recipe, or a TOML file, relative to the experiment file or to the current
    directory. Only a file with `keys`, `grid` or `rows` may leave it out."""
    out: str | None = None
    """Directory of the runs; `runs/` and the experiment file's name if left out."""
    seeds: Seeds = field(default_factory=lambda: [0])
    """Seeds, or how many of them, counted from 0."""
    keys: Keys = field(default_factory=dict)
    """Recipe keys for every run."""
    grid: Grid = field(default_factory=dict)
    """Recipe keys, each with a list of values; every combination is a row."""
    rows: list[Keys] = field(default_factory=list)
    """Recipe keys that are set together, with an optional `name`; each row is combined with the
    whole grid."""


def load_experiment(file: str | Path) -> Experiment:
    """Load and validate an experiment file.

    Raises:
        UserError: the file does not exist or is not TOML, or a key or value is wrong.
    """
    path = require_file(file)
    table = read_toml(path)
    if "stages" in table and "recipe" not in table:
        raise UserError(f"{path}: is a recipe; run `compress run {path}`")
    experiment = validate_table(Experiment, table, str(path))
    if table.keys().isdisjoint(("recipe", "keys", "grid", "rows")):
        raise UserError(f"{path}: names nothing to run; set recipe, keys, grid or rows")
    tables = [("keys", experiment.keys), ("grid", experiment.grid)]
    for name, keys in [*tables, *(("rows", row) for row in experiment.rows)]:
        if "seed" in keys:
            raise UserError(
                f"{path}: {name}.seed: use the key seeds at the top, as seeds = [0, 1, 2]"
            )
    counts = [len(values) for values in experiment.grid.values()]
    trials = len(experiment.seeds) * max(1, len(experiment.rows)) * math.prod(counts)
    if trials > MAX_TRIALS:
        raise UserError(f"{path}: {trials:,} trials; an experiment has at most {MAX_TRIALS}")
    for row in experiment.rows:
        if both := experiment.grid.keys() & row.keys():
            raise UserError(f"{path}: grid.{min(both)}: is set in a row too; keep one of them")
    return experiment


def expand_rows(experiment: Experiment) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Expand an experiment to its rows.

    Returns:
        For each row, its label and its recipe keys. The label has the keys that tell the rows
        apart, as text; "-" stands for a key that the row does not set.
    """
    rows: list[tuple[dict[str, str], dict[str, Any]]] = []
    for row in experiment.rows or [{}]:
        overrides = {key: value for key, value in row.items() if key != "name"}
        label = {"name": row["name"]} if "name" in row else overrides
        for values in itertools.product(*experiment.grid.values()):
            chosen = dict(zip(experiment.grid, values, strict=True))
            text = {key: _as_text(value) for key, value in (label | chosen).items()}
            rows.append((text, overrides | chosen))
    columns = list(dict.fromkeys(key for label, _ in rows for key in label))
    different = [key for key in columns if len({label.get(key) for label, _ in rows}) > 1]
    # Of a single row, or of rows that are all alike, all keys.
    columns = different or columns
    return [({key: label.get(key, "-") for key in columns}, keys) for label, keys in rows]


def describe_row(label: dict[str, str]) -> str:
    """Describe a row in messages."""
    return ", ".join(f"{key} {value}" for key, value in label.items()) or "the recipe"


def _as_text(value: Any) -> str:
    if isinstance(value, dict | list):
        return " ".join(map(_as_text, value.values() if isinstance(value, dict) else value))
    return value if isinstance(value, str) else json.dumps(value)
