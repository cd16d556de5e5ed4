"""Objects from Python in place of names: data, networks, methods and importances.

Each object is held under a name with a fingerprint of its content, and the recipe gets that name.
So the run directory says what a run started with, a run resumes if the same objects are passed
again, and is refused if they differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from compress.data.dataset import Dataset
from compress.data.in_memory import to_source
from compress.data.labels import ClassNames
from compress.data.open_dataset import open_dataset
from compress.data.source import WHITE, Normalization
from compress.distillation.functions import to_method
from compress.models.channels import input_channels
from compress.models.head import find_other_head
from compress.models.modules import (
    HeldModule,
    fingerprint_module,
    published_spec,
    recognize,
)
from compress.models.plain_module import hold_copy
from compress.pipeline.change_stages import change_stages
from compress.pipeline.describe_object import describe_object
from compress.pipeline.provenance import make_checkpoint
from compress.pipeline.score_module import score_module
from compress.pruning.importance import to_importance
from compress.recipe.in_memory import MEMORY, find_held, hold, is_in_memory
from compress.recipe.load import load_recipe, override_recipe, recipe_from_dict
from compress.recipe.model_spec import ModelSpec
from compress.recipe.overrides import ROLES, apply_overrides
from compress.recipe.schema import Recipe
from compress.runtime.arguments import require_side
from compress.runtime.errors import UserError


@dataclass(frozen=True)
class Given:
    """What is known about the objects that are passed to a run.

    Args:
        classes: names of the data's classes.
        normalization: mean and standard deviation of the networks' images.
        trained: whether the modules are trained for the data; found out if None.
    """

    classes: ClassNames | None = None
    normalization: Normalization | None = None
    trained: bool | None = None


def to_recipe(
    recipe: str | Path | Recipe | Mapping[str, Any], overrides: Mapping[str, Any], given: Given
) -> tuple[Recipe, tuple[str, ...]]:
    """Load a recipe and hold the objects among its keys and overrides.

    Returns:
        The recipe, with names in place of objects; and a line on each module, whether it is taken
        as trained.

    Raises:
        UserError: an object cannot be used, or a key or value is wrong.
    """
    changes = dict(overrides)
    table = dict(recipe) if isinstance(recipe, Mapping) else {}
    data = _take_data(table, changes)
    method, importance = changes.pop("method", None), changes.pop("importance", None)
    image_size = changes.get("image_size") or table.get("image_size")
    if isinstance(image_size, tuple | list):
        require_side(image_size)
    table, changes = _replace_objects(table), _replace_objects(changes)
    if isinstance(recipe, Recipe):
        loaded = override_recipe(recipe, changes)
    elif isinstance(recipe, Mapping):
        loaded = recipe_from_dict(apply_overrides(table, changes))
    else:
        loaded = load_recipe(str(recipe), changes)
    if data is not None:
        loaded = replace(loaded, data=_hold_data(data, given, loaded))
    method = None if method is None else _hold_method(method)
    importance = None if importance is None else _hold_importance(importance)
    return _settle_modules(_use_names(loaded, method, importance), given)


def _take_data(*tables: dict[str, Any]) -> Any:
    """Take the data out of tables of recipe keys, of which the last counts, unless it is a name."""
    data = None
    for table in tables:
        found = table.get("data")
        if isinstance(found, str):
            data = None
        elif found is not None:
            data = table.pop("data")
    return data


def _replace_objects(table: Mapping[str, Any]) -> Any:
    """Replace the objects in a recipe's table, or in overrides, by names under which they are held.

    Keys of overrides may be dotted.
    """
    replaced = {}
    for key, value in table.items():
        leaf = key.rpartition(".")[2]
        if leaf in ROLES and not isinstance(value, str | Path | Mapping | ModelSpec | None):
            value = {"name": _hold_module(value, leaf)}
        elif leaf == "name" and isinstance(value, nn.Module):
            value = _hold_module(value, key)
        elif leaf == "method" and value is not None:
            value = _hold_method(value)
        elif leaf == "importance" and value is not None:
            value = _hold_importance(value)
        elif isinstance(value, Mapping):
            value = _replace_objects(value)
        elif leaf == "stages" and isinstance(value, list | tuple):
            value = [
                _replace_objects(stage) if isinstance(stage, Mapping) else stage for stage in value
            ]
        replaced[key] = value
    return replaced


def _hold_data(data: Any, given: Given, recipe: Recipe) -> str:
    if isinstance(data, Path):
        raise UserError(f"data: a folder of images is named 'folder:{data}'")
    source, _ = to_source(
        data,
        image_size=recipe.image_size,
        background=recipe.background or WHITE,
        classes=given.classes,
        normalization=given.normalization,
    )
    name = f"{MEMORY}{source.name}"
    return hold(name, replace(source, name=name))


def _hold_module(module: Any, role: str) -> str:
    own = hold_copy(module, role)
    name = f"{MEMORY}{type(own).__name__}-{fingerprint_module(own)}"
    return hold(name, HeldModule(own))


def _hold_method(found: Any) -> str:
    return found if isinstance(found, str) else _hold_object(found, to_method(found))


def _hold_importance(found: Any) -> str:
    return found if isinstance(found, str) else _hold_object(found, to_importance(found))


def _hold_object(found: Any, converted: Any) -> str:
    label = getattr(found, "__name__", type(found).__name__).strip("<>")
    digest = hashlib.sha256(describe_object(found).encode()).hexdigest()[:12]
    return hold(f"{MEMORY}{label}-{digest}", converted)


def _use_names(recipe: Recipe, method: str | None, importance: str | None) -> Recipe:
    """Let the recipe's stages use a method and an importance, and those for few images as well."""
    small = recipe.small_data
    if small is not None:
        small = replace(
            small, method=method or small.method, importance=importance or small.importance
        )
    stages = change_stages(recipe.stages, method, importance)
    return replace(recipe, stages=stages, small_data=small)


def _settle_modules(recipe: Recipe, given: Given) -> tuple[Recipe, tuple[str, ...]]:
    """Decide of each module in memory if it is trained, and how weights files name it."""
    notes: list[str] = []
    roles = [role for role in ROLES if is_in_memory(getattr(recipe, role).name)]
    if not roles:
        return recipe, ()
    data = open_dataset(
        recipe.data,
        image_size=recipe.image_size,
        seed=recipe.seed,
        crop_ratio=recipe.crop_ratio,
        background=recipe.background,
    )
    for role in roles:
        spec = getattr(recipe, role)
        held: HeldModule = find_held(spec.name)
        published = recognize(held.module, len(data.classes), data.image_size)
        size = (input_channels(held.module, data.image_size), data.image_size, data.image_size)
        held = replace(held, published=published, input_size=size)
        hold(spec.name, held)
        if spec.weights is None:
            trained, note = _find_training(role, held.module, data, given)
            notes.append(note)
            if trained is not None:
                weights = _hold_checkpoint(spec, held.module, data, trained)
                recipe = replace(recipe, **{role: replace(spec, weights=weights)})
        if published_spec(spec).name == spec.name:
            notes.append(
                f"{role}: {type(held.module).__name__} has no name that rebuilds it; load its"
                " weights files by compress.load(FILE, model=…)"
            )
    taught = any(stage.kind == "teach" for stage in recipe.stages)
    if "teacher" in roles and not (recipe.teacher.weights or recipe.student.weights or taught):
        raise UserError(
            "teacher: it is taken as not trained, and the recipe has no 'teach' stage that trains"
            " it; add one, or pass trained=True if it is trained"
        )
    if "teacher" in roles and recipe.student.weights and not recipe.teacher.weights:
        raise UserError(
            "teacher: a trained student is its own teacher; leave the teacher out, or pass a"
            " trained one"
        )
    return recipe, tuple(notes)


def _find_training(
    role: str, module: nn.Module, data: Dataset, given: Given
) -> tuple[Normalization | None, str]:
    """Return the normalization of a module that is trained, else None; and a line about it."""
    named = f"{role}: {type(module).__name__}"
    if given.trained is False:
        return None, f"{named} is to be trained, from its present weights"
    choices = (given.normalization,) if given.normalization else None
    tried = score_module(module, data, choices)
    found = tried.reason or f"{tried.score:.1%} of {tried.images}"
    mean, std = (", ".join(f"{value:.3g}" for value in each) for each in tried.normalization)
    if given.trained or tried.trained:
        return (
            tried.normalization,
            f"{named} is taken as trained: {found}, mean {mean}, std {std}",
        )
    return None, (
        f"{named} is taken as not trained, it starts from its present weights: {found}"
        f"{'' if tried.reason else ', at chance'};"
        " if that is wrong, pass mean= and std= of its images, or trained=True"
    )


def _hold_checkpoint(
    spec: Any, module: nn.Module, data: Dataset, normalization: Normalization
) -> str:
    """Hold a trained module as a checkpoint, under a name that also says how it sees images."""
    own = hold_copy(module).eval()
    channels = input_channels(own, data.image_size)
    size = (channels, data.image_size, data.image_size)
    if path := find_other_head(own, len(data.classes), size):
        raise UserError(
            f"{type(own).__name__}: layer {path} has other outputs than the {len(data.classes)}"
            " classes of the data: it is not trained for them; leave trained=True out"
        )
    mean, std = (each[:channels] for each in normalization)
    digest = hashlib.sha256(repr((mean, std, size)).encode()).hexdigest()[:8]
    for parameter in own.parameters():
        parameter.requires_grad_(True)
    trained = make_checkpoint(own, spec, data, channels, normalization)
    return hold(f"{spec.name}-trained-{digest}", trained)
