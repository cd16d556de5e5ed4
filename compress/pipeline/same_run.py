"""Resuming: which recipe may go on in a run directory, and from where. Does not import torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.pipeline.manifest import MANIFEST, read_results
from compress.recipe.in_memory import is_in_memory
from compress.recipe.load import (
    TRAINED_BY,
    read_run_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from compress.runtime.errors import UserError, did_you_mean

# The kinds of stages that train.
TRAINS = ("teach", "distill", "finetune")


@dataclass(frozen=True)
class Stages:
    """The stages of a plan, as far as resuming needs them.

    Args:
        names: of all steps, as in tables.
        positions: the position of each step's stage in the recipe; None if it has none there.
        redo: index of the first step to do again; None if what is done stays.
    """

    names: tuple[str, ...] = ()
    positions: tuple[int | None, ...] = ()
    redo: int | None = None

    def open_positions(self, done: int) -> set[int]:
        """Return the positions in the recipe of the stages that come after `done` steps."""
        done = done if self.redo is None else min(done, self.redo)
        return {place for place in self.positions[done:] if place is not None}


def find_stage(name: str | None, names: Sequence[str]) -> int | None:
    """Return the index of the stage `name`, as ``finetune 1``, or ``finetune-1``.

    Raises:
        UserError: there is no such stage.
    """
    if name is None:
        return None
    wanted = name.strip().lower().replace("-", " ")
    if wanted not in names:
        raise UserError(
            f"--from {name!r}: no such stage{did_you_mean(wanted, names)}; it is one of"
            f" {', '.join(names)}"
        )
    return list(names).index(wanted)


def require_same_run(path: Path, begun: dict[str, Any], stages: Stages) -> dict[str, Any]:
    """Return the manifest of the run in `path`, if it is the run that has `begun`.

    The learning rate of a stage that is not done yet may differ; of stages that are done again, so
    may everything about their training.

    Raises:
        UserError: the manifest is damaged, or is that of another run.
    """
    manifest, results = read_results(path)
    free = stages.open_positions(len(results))
    ours = _decisive_keys(begun["recipe"], free, stages)
    theirs = _decisive_keys(normalize_recipe(manifest.get("recipe", {})), free, stages)
    # A run that is repeated from its own run.json starts from its own copies of trained networks.
    own = _decisive_keys(normalize_recipe(read_run_recipe(path / MANIFEST)), free, stages)
    if ours not in (theirs, own):
        key = next((k for k in ours if theirs.get(k) != ours[k]), "its keys")
        hint = ", or --from a stage to train it again with other keys" if key == "stages" else ""
        raise UserError(
            f"{path}: holds a run of another recipe ({key} differs);"
            f" choose another --out, or --fresh{hint}"
        )
    if manifest.get("data") != begun["data"]:
        raise UserError(
            f"{path}: the data differs from what this run started with;"
            " choose another --out, or --fresh"
        )
    return manifest


def resume_manifest(manifest: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a resumed run.

    Keys that may differ are taken from the new recipe; names of weights files stay as they were.
    """
    recipe = dict(begun["recipe"])
    for role in TRAINED_BY:
        weights = manifest["recipe"].get(role, {}).get("weights")
        recipe[role] = recipe[role] | {"weights": weights}
    return manifest | {"recipe": recipe}


def changes_stage(manifest: dict[str, Any], begun: dict[str, Any], position: int | None) -> bool:
    """Return True if the recipe's stage at `position` is not the one that the run started with."""
    if position is None:
        return False
    old, new = (
        _drop_speed(recipe).get("stages", [])
        for recipe in (normalize_recipe(manifest.get("recipe", {})), begun["recipe"])
    )
    return bool(old[position : position + 1] != new[position : position + 1])


def normalize_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a stored run with the defaults of keys that it does not have."""
    try:
        table: dict[str, Any] = json.loads(json.dumps(recipe_to_dict(recipe_from_dict(recipe))))
        return table
    except UserError:
        return recipe


def _decisive_keys(recipe: dict[str, Any], free: set[int], stages: Stages) -> dict[str, Any]:
    """Return a recipe without the keys that may differ, and with absolute paths."""
    decisive = _drop_speed(recipe)
    for position in free & set(range(len(decisive.get("stages", [])))):
        stage = decisive["stages"][position]
        if stage["kind"] in TRAINS:
            kept = {"kind"} if stages.redo is not None else stage.keys() - {"lr"}
            decisive["stages"][position] = {key: stage[key] for key in stage if key in kept}
    for role in TRAINED_BY:
        weights = decisive.get(role, {}).get("weights")
        if weights and not is_in_memory(weights):
            decisive[role]["weights"] = str(Path(weights).resolve())
    return decisive


def _drop_speed(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a recipe without the keys that only concern speed."""
    copied: dict[str, Any] = json.loads(
        json.dumps(recipe),
        object_hook=lambda table: {key: table[key] for key in table if key != "compile"},
    )
    return copied
