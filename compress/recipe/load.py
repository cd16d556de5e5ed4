"""Loading and validation: TOML or run.json in, a `Recipe` out. Does not import torch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from compress.recipe.messages import describe_first_error
from compress.recipe.overrides import apply_overrides
from compress.recipe.schema import Recipe
from compress.recipe.stages import Prune, Quantize, Train
from compress.recipe.types import StageFile
from compress.runtime.checksum import check_table
from compress.runtime.errors import UserError, did_you_mean, quote
from compress.runtime.files import is_file
from compress.runtime.plain_files import check_plain, read_json, read_toml

T = TypeVar("T")

# The stage that is skipped if a role comes with trained weights.
TRAINED_BY = {"teacher": "teach", "student": "distill"}


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name; from a wheel or from a checkout."""
    package = Path(__file__).parent.parent
    places = (package / "pipelines", package.parent / "pipelines")
    folder = next((f for f in places if f.is_dir()), package)
    return {path.stem: path for path in sorted(folder.glob("*.toml"), key=lambda path: path.stem)}


def load_recipe(name: str, overrides: dict[str, Any] | None = None) -> Recipe:
    """Load and validate a recipe.

    Args:
        name: a shipped recipe, a TOML file, or the ``run.json`` of a run that is to be repeated.
        overrides: keys that replace the file's, as ``{"budget": "50k", "teacher": "resnet34"}``;
            see `compress.recipe.overrides.apply_overrides`.

    Raises:
        UserError: there is no such recipe, or a key or value is wrong.

    Example:
        >>> load_recipe("default", {"budget": "50k", "finetune.epochs": 3}).budget
        '50k'
    """
    path = shipped_recipes().get(name, Path(name))
    if not is_file(path):
        hint = did_you_mean(name, shipped_recipes())
        raise UserError(
            f"no recipe {quote(name)}{hint}: see `compress recipes`, or pass a TOML file"
        )
    table = read_run_recipe(path) if path.suffix == ".json" else read_toml(path)
    if "stages" not in table and not table.keys().isdisjoint(
        ("recipe", "seeds", "keys", "grid", "rows")
    ):
        raise UserError(f"{path}: is an experiment; run `compress experiment {path}`")
    changed = apply_overrides(table, overrides or {}, str(path))
    try:
        return recipe_from_dict(changed, str(path))
    except UserError as error:
        # A wrong flag is not blamed on a file that is right.
        if overrides and _is_valid(table):
            raise UserError(str(error).removeprefix(f"{path}: ")) from error
        raise


def _is_valid(table: dict[str, Any]) -> bool:
    try:
        recipe_from_dict(table)
    except UserError:
        return False
    return True


def override_recipe(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """Return `recipe` with `overrides` applied, validated again.

    Raises:
        UserError: a key or value is wrong.
    """
    if not overrides:
        return recipe
    return recipe_from_dict(apply_overrides(recipe_to_dict(recipe), overrides))


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain data, which `recipe_from_dict` reads."""
    return dataclasses.asdict(recipe)


def recipe_from_dict(table: dict[str, Any], where: str = "recipe") -> Recipe:
    """Validate a recipe that `tomllib` or `json` read.

    Args:
        where: name of the recipe in messages.

    Raises:
        UserError: a key is unknown or missing, a value has the wrong type or range, or the order
            of the stages makes no sense.
    """
    recipe = validate_table(Recipe, table, where)
    _check_stage_order(recipe, where)
    _check_lengths(recipe, where)
    _check_distill_from(recipe, where)
    _check_frozen(recipe, where)
    modes = [stage.mode for stage in recipe.stages if isinstance(stage, Prune)]
    if modes != sorted(modes):
        raise UserError(f"{where}: stages: mode 'channels' must come before mode 'weights'")
    try:
        budgets = recipe.budgets()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if modes and not budgets:
        raise UserError(
            f"{where}: budget: is missing; set budget, macs, file_size, latency or speedup"
        )
    return recipe


def validate_table(kind: type[T], table: Any, where: str) -> T:
    """Validate plain data, whatever it is, as the dataclass `kind`.

    Raises:
        UserError: the first key that is unknown, missing or wrong.
    """
    try:
        check_plain(table)
        # As JSON: strict validation takes JSON's lists for tuples.
        return TypeAdapter(kind).validate_json(json.dumps(table, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {describe_first_error(error, kind)}") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class _StageFile:
    """What a recipe takes from the results of a stage."""

    kind: str
    checkpoint: StageFile


@dataclass(frozen=True, config=ConfigDict(extra="allow"))
class _Networks:
    """The recipe in a ``run.json``, as far as it is looked at before it is validated."""

    teacher: dict[str, Any]
    student: dict[str, Any]


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class _RunFile:
    """The part of a ``run.json`` that says how to repeat the run."""

    recipe: _Networks
    stages: list[_StageFile]


def read_run_recipe(path: Path) -> dict[str, Any]:
    """Read the recipe in the ``run.json`` of a run.

    Weights files that the run started from are replaced by its own copies, which move with it.

    Raises:
        UserError: it is not the run.json of a run.
    """
    what = "not the run.json of a run"
    run = read_json(path, what)
    stages = validate_table(_RunFile, run, f"{path}: {what}").stages
    check_table(run, str(path))
    table: dict[str, Any] = run["recipe"]
    copies = {stage.kind: path.parent / stage.checkpoint for stage in stages}
    for role, kind in TRAINED_BY.items():
        if table[role].get("weights") and kind in copies and copies[kind].is_file():
            table[role]["weights"] = str(copies[kind])
    return table


def _check_stage_order(recipe: Recipe, where: str) -> None:
    kinds = [stage.kind for stage in recipe.stages]
    if "distill" not in kinds:
        raise UserError(f"{where}: stages: no 'distill' stage, so there is no student; add one")
    for kind in ("teach", "distill"):
        if kinds.count(kind) > 1:
            raise UserError(
                f"{where}: stages: {quote(kind)} comes twice, and each starts from a new network;"
                " use 'finetune' to train further"
            )
    if any(isinstance(stage, Quantize) for stage in recipe.stages[:-1]):
        raise UserError(f"{where}: stages: 'quantize' must be the last stage, and comes once")
    student_at = kinds.index("distill")
    early = set(kinds[:student_at]) - {"teach"}
    if early or "teach" in kinds[student_at:]:
        raise UserError(
            f"{where}: stages: the order is teach, distill, then prune and finetune in turns"
        )


def _check_lengths(recipe: Recipe, where: str) -> None:
    """Refuse a stage without a length, or with two of them.

    The recipe's own length is that of stages without one.
    """
    if recipe.epochs is not None and recipe.steps is not None:
        raise UserError(f"{where}: epochs and steps: both are a length; give one of them")
    for place, stage in enumerate(recipe.stages, start=1):
        if not isinstance(stage, Train):
            continue
        key = f"{where}: stages.{place}"
        if stage.epochs and stage.steps:
            raise UserError(f"{key}: epochs and steps: both are its length; give one of them")
        if not (stage.epochs or stage.steps or stage.min_steps or recipe.epochs or recipe.steps):
            raise UserError(f"{key}.epochs: is missing; set it or steps, greater than 0")


def _check_distill_from(recipe: Recipe, where: str) -> None:
    """Refuse to distill from a network that does not exist before the first pruning."""
    pruned = False
    for place, stage in enumerate(recipe.stages, start=1):
        pruned = pruned or isinstance(stage, Prune)
        if isinstance(stage, Train) and stage.distill_from != "teacher" and not pruned:
            raise UserError(
                f"{where}: stages.{place}.distill_from: {quote(stage.distill_from)} needs an"
                " earlier 'prune' stage; use 'teacher'"
            )


def _check_frozen(recipe: Recipe, where: str) -> None:
    """Refuse to freeze a backbone that has random weights: no pretrained ones, or a new stem."""
    for place, stage in enumerate(recipe.stages, start=1):
        if not isinstance(stage, Train) or not stage.freeze or stage.kind == "finetune":
            continue
        spec = recipe.teacher if stage.kind == "teach" else recipe.student
        if spec.weights or spec.source == "custom":
            continue
        # An EfficientNet's stem keeps its weights.
        new_stem = spec.stem not in ("imagenet", "auto") and not spec.name.startswith(
            "efficientnet"
        )
        if new_stem or not spec.pretrained:
            remedy = "leave stem out" if spec.pretrained else "set pretrained = true"
            raise UserError(
                f"{where}: stages.{place}.freeze: the first layers of {spec.name} have random"
                f" weights; {remedy}"
            )
