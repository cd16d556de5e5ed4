"""An experiment's file: a grid over recipe keys, and the rows that it comes to. Free of torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator
from pydantic.dataclasses import dataclass

from compress.recipe import load as recipes
from compress.recipe.schema import CONFIG
from compress.runtime.errors import UserError


def _flat(keys: Any, above: str = "") -> Any:
    """Tables in tables as dotted keys: ``distill.alpha`` is written with quotes or without."""
    if not isinstance(keys, dict):
        return keys
    flat: dict[str, Any] = {}
    for key, value in keys.items():
        flat |= (
            _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
        )
    return flat


def _each(seeds: Any) -> Any:
    return list(range(seeds)) if type(seeds) is int else seeds


def _once(values: list[Any]) -> list[Any]:
    if not values or any(value in values[:place] for place, value in enumerate(values)):
        raise ValueError("must name one value or more, each once")
    return values


Keys = Annotated[dict[str, Any], BeforeValidator(_flat)]
Values = Annotated[list[Any], AfterValidator(_once)]
Seeds = Annotated[list[int], BeforeValidator(_each), AfterValidator(_once)]


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Experiment:
    """What an experiment's file says. As in a recipe, paths among the keys are seen from the folder one is in.

    Args:
        recipe: a shipped recipe's name, or a TOML file, as seen from this file or from here.
        out: the directory that holds the runs; ``runs/`` and this file's name if left out.
        seeds: which, or how many, counted from 0.
        keys: recipe keys for every run, as in `compress.recipe.schema.load`: ``limit``, ``teacher.stem``, ``distill.alpha``.
        grid: recipe keys, each with the list of its values: every combination is a row of the table.
        rows: keys that go together, under a `name` if they have one; each is combined with all of the grid.
    """

    recipe: str = "default"
    out: str | None = None
    seeds: Seeds = field(default_factory=lambda: [0])
    keys: Keys = field(default_factory=dict)
    grid: Annotated[dict[str, Values], BeforeValidator(_flat)] = field(default_factory=dict)
    rows: list[Keys] = field(default_factory=list)


def load(file: str | Path) -> Experiment:
    """Read an experiment's file.

    Raises:
        UserError: it is not there or not TOML, or something in it is wrong: the key, and the nearest right one.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"{file}: there is no such file")
    plain = recipes.read_toml(path)
    if "stages" in plain and "recipe" not in plain:
        raise UserError(f"{path}: this is a recipe: `compress run {path}`")
    experiment = recipes.validate_table(Experiment, plain, str(path))
    for where, keys in (
        ("keys", experiment.keys),
        ("grid", experiment.grid),
        *(("rows", r) for r in experiment.rows),
    ):
        if "seed" in keys:
            raise UserError(
                f"{path}: {where}.seed: seeds have a key of their own: write seeds = [0, 1, 2] at the top"
            )
        if where == "rows" and (both := experiment.grid.keys() & keys.keys()):
            raise UserError(
                f"{path}: grid.{min(both)}: a row says what it is, and the grid does too"
            )
    return experiment


def rows(experiment: Experiment) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Of every row: the keys that set it apart, as text; and the recipe keys that it lays over the others'."""
    found = []
    for given in experiment.rows or [{}]:
        overrides = {key: value for key, value in given.items() if key != "name"}
        named = {"name": given["name"]} if "name" in given else overrides
        for values in itertools.product(*experiment.grid.values()):
            chosen = dict(zip(experiment.grid, values, strict=True))
            found.append(
                ({key: _text(value) for key, value in (named | chosen).items()}, overrides | chosen)
            )
    columns = dict.fromkeys(key for keys, _ in found for key in keys)
    if len(found) > 1:
        columns = dict.fromkeys(
            key for key in columns if len({keys.get(key) for keys, _ in found}) > 1
        )
    for keys, overrides in found:
        yield {key: keys.get(key, "-") for key in columns}, overrides


def title(keys: dict[str, str]) -> str:
    """What a row is called in an error."""
    return ", ".join(f"{key} {value}" for key, value in keys.items()) or "the recipe"


def _text(value: Any) -> str:
    if isinstance(value, dict | list):
        return " ".join(map(_text, value.values() if isinstance(value, dict) else value))
    return value if isinstance(value, str) else json.dumps(value)
