"""Overrides: changes to a recipe by flags, experiments and Python arguments.

They change plain data, before it is validated. Does not import torch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compress.recipe.budget import BUDGET_KEYS
from compress.recipe.model_spec import FAMILIES_WITH_STEM
from compress.recipe.stages import STAGE_TYPES
from compress.runtime.errors import UserError, did_you_mean

ROLES = ("teacher", "student")
# Tables of a recipe whose keys can be changed one by one, besides its stages.
TABLES = (*ROLES, "small_data")
WEIGHTS_SUFFIXES = (".pth", ".pt")


def apply_overrides(
    table: dict[str, Any], overrides: dict[str, Any], where: str = "recipe"
) -> dict[str, Any]:
    """Apply `overrides` to a recipe's plain data.

    Keys may be dotted: ``teacher.name``; ``finetune.epochs``, of all stages of that kind;
    ``stages.2.alpha``, of the second stage. As on the command line, a plain ``teacher`` or
    ``student`` is a network's name or a weights file, and ``stem`` is the student's. ``pretrained``
    is that of both networks, except for trained ones, and ``builder`` is the function that builds
    the networks of weights files among the overrides. A value of None is no override.

    Args:
        table: the recipe's plain data, which is left as it is.
        where: name of the recipe in messages.

    Returns:
        The new table. Budgets among the overrides replace all budgets of the recipe. A network's
        name drops the weights and the source of the network it replaces.

    Raises:
        UserError: a key leads nowhere, or a trained student is combined with an untrained teacher.

    Example:
        >>> apply_overrides({"teacher": {"name": "resnet50"}}, {"teacher.head": [256]})
        {'teacher': {'name': 'resnet50', 'head': [256]}}
    """
    changes = dict(_expand(key, value) for key, value in overrides.items() if value is not None)
    table, changes = copy.deepcopy(table), copy.deepcopy(changes)
    pretrained = changes.pop("pretrained", None)
    changes = _name_builder(changes)
    if not changes.keys().isdisjoint(BUDGET_KEYS):
        table = {key: value for key, value in table.items() if key not in BUDGET_KEYS}
    if any(map(_is_of_stages, changes)):
        # A change to the stages is meant for these stages.
        table.pop("small_data", None)
    _check_teacher(changes)
    for role in ROLES:
        if f"{role}.name" in changes or isinstance(changes.get(role), dict):
            _keep_named(role, table.get("small_data"))
    for key, value in _names_first(changes):
        *path, leaf = key.split(".")
        refusal = f"{key}: there is nothing of that name in {where}"
        for target in _find_tables(table, path, refusal):
            if leaf == "name" and path in (["teacher"], ["student"]):
                # These belong to the network that had the role before.
                target.pop("weights", None)
                target.pop("source", None)
            target[leaf] = value
    if pretrained is not None:
        _set_pretrained(table, pretrained)
    return table


def _keep_named(role: str, small_data: object) -> None:
    """Let few images change neither a student that is named, nor the work of a named teacher."""
    if isinstance(small_data, dict):
        if role == "student":
            small_data.pop("student", None)
        else:
            small_data["scratch"] = small_data.get("taught", "taught")


def _name_builder(changes: dict[str, Any]) -> dict[str, Any]:
    """Give the weights files among the changes the function that builds their networks."""
    builder = changes.pop("builder", None)
    if builder is None:
        return changes
    files = [role for role in ROLES if f"{role}.weights" in changes]
    if not files:
        raise UserError(
            "builder: is for weights files, --teacher FILE or --student FILE; a new network is"
            f" named by its function alone, --student {builder}"
        )
    return {role: {"name": builder} for role in files} | changes


def _set_pretrained(table: dict[str, Any], pretrained: bool | str) -> None:
    """Let both networks start from published weights, or not, unless they are trained already."""
    networks = {role: table.get(role) for role in ROLES}
    trained = [bool(isinstance(each, dict) and each.get("weights")) for each in networks.values()]
    # A trained student is its own teacher.
    skipped = dict(zip(ROLES, (any(trained), trained[1]), strict=True))
    for role, network in networks.items():
        if isinstance(network, dict) and not skipped[role]:
            network["pretrained"] = pretrained


def _check_teacher(changes: dict[str, Any]) -> None:
    """Refuse a trained student with an untrained teacher: the student is its own teacher."""

    def find(role: str, key: str) -> Any:
        network = changes.get(role)
        in_table = network.get(key) if isinstance(network, dict) else None
        return changes.get(f"{role}.{key}") or in_table

    teacher = find("teacher", "name") and not find("teacher", "weights")
    if find("student", "weights") and teacher:
        raise UserError(
            "teacher: a trained student is its own teacher; leave the teacher out, or pass its"
            " weights file"
        )


def _names_first(changes: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield networks before their keys, and names before weights and sources."""
    return iter(
        sorted(changes.items(), key=lambda item: (item[0] not in ROLES, not _is_name(item[0])))
    )


def _is_of_stages(key: str) -> bool:
    first, dot, _ = key.partition(".")
    return first == "stages" or (bool(dot) and first not in TABLES)


def _is_name(key: str) -> bool:
    return key in [f"{role}.name" for role in ROLES]


def _find_tables(table: dict[str, Any], path: list[str], refusal: str) -> list[dict[str, Any]]:
    """Return the tables at `path`: stages of a kind, the stage of a number, or a nested table."""
    first, known = path[:1], (*TABLES, "stages", *STAGE_TYPES)
    if first and first[0] not in known:
        raise UserError(refusal + did_you_mean(first[0], known))
    if first and first[0] not in TABLES:
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
        name = str(value)
        if Path(name).suffix in WEIGHTS_SUFFIXES:
            return f"{key}.weights", name
        if name.startswith(FAMILIES_WITH_STEM) and ":" not in name:
            return f"{key}.name", name
        # Other networks have no stem, whatever the recipe says.
        return key, {"name": name}
    return key, value
