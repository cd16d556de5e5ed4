"""The origin of a network in the words of a model card.

A weights file may come from anywhere: what is not as this package writes it is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from compress.runtime.text import safe_line

NUMBERS = ("params", "macs", "val", "seconds", "epochs")
# Recipe keys of budgets, and what stands after their values.
BUDGETS = {
    "budget": " parameters",
    "macs": " multiply-adds",
    "file_size": " of file",
    "latency": " for one image",
    "speedup": " as fast",
}


@dataclass(frozen=True)
class CardStage:
    """A stage of the run that made a network; accuracies are 0 to 1."""

    name: str
    params: int
    macs: int
    val: float
    test: float | None
    seconds: float
    epochs: float

    @property
    def kind(self) -> str:
        """Its kind, as ``prune`` of ``prune 2``."""
        return self.name.partition(" ")[0]


def list_stages(origin: Mapping[str, Any]) -> list[CardStage]:
    """Return the stages of a run that made a network, but for those that write other files."""
    stages = origin.get("stages")
    found = []
    for stage in stages if isinstance(stages, list) else []:
        if not isinstance(stage, dict):
            continue
        name = str(stage.get("name"))
        if not re.fullmatch(r"[a-z]+( [0-9]+)?", name):
            continue
        if all(_is_number(stage.get(key)) for key in NUMBERS):
            numbers = {key: stage[key] for key in NUMBERS}
            test = stage.get("test") if _is_number(stage.get("test")) else None
            found.append(CardStage(name, test=test, **numbers))
    return [stage for stage in found if stage.kind != "quantize"]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value < 2**63


def describe_images(origin: Mapping[str, Any]) -> list[str]:
    """Say which of the training images were used, and their checksum."""
    recipe, notes = _recipe(origin), []
    if _is_number(limit := recipe.get("max_images")):
        notes.append(f"At most {limit:,} of the training images were used.")
    if _is_number(part := recipe.get("data_fraction")) and part < 1:
        notes.append(f"A fraction of {part:.4g} of the training images was used.")
    checksum = str(origin.get("data_checksum"))
    if re.fullmatch("[0-9a-f]{64}", checksum):
        notes.append(f"SHA-256 of the training images: `{checksum}`")
    return notes


def describe_training(origin: Mapping[str, Any]) -> str:
    """Say by which recipe, with which networks and on what machine a network was made."""
    recipe = _recipe(origin)
    facts = {"Recipe": recipe.get("title")}
    facts |= {"Teacher": _name_teacher(origin), "Student": _network(recipe, "student").get("name")}
    budgets = [f"{recipe[key]}{unit}" for key, unit in BUDGETS.items() if recipe.get(key)]
    facts |= {"Budget": ", ".join(budgets), "Seed": recipe.get("seed")}
    facts |= {"Device": origin.get("device"), "Versions": ", ".join(_list_versions(origin))}
    known = {name: fact for name, fact in facts.items() if fact not in (None, "")}
    return " ".join(f"{name}: {escape_markdown(fact)}." for name, fact in known.items())


def _name_teacher(origin: Mapping[str, Any]) -> object:
    """Return the network that taught, in a few words; None if there was none."""
    teacher, student = (_network(_recipe(origin), role) for role in ("teacher", "student"))
    taught = any(stage.kind == "teach" for stage in list_stages(origin))
    if taught and student.get("weights") and not teacher.get("weights"):
        return "the student itself, before it was pruned"
    return teacher.get("name") if taught or teacher.get("pretrained") else None


def _network(recipe: Mapping[str, Any], role: str) -> dict[str, Any]:
    network = recipe.get(role)
    return network if isinstance(network, dict) else {}


def describe_changes(origin: Mapping[str, Any]) -> list[str]:
    """Say what was done to a network after its training."""
    lines = []
    if isinstance(pruned := origin.get("pruned"), dict):
        listed = ", ".join(f"{key} {value}" for key, value in pruned.items())
        lines.append(f"It was then pruned without training: {escape_markdown(listed)}.")
    if origin.get("folded") == "grey":
        lines.append("It was then folded to one channel, for grey images.")
    return lines


def find_version(origin: Mapping[str, Any]) -> str:
    """Return the version of this package that made a network, if it is known."""
    return next((each for each in _list_versions(origin) if each.startswith("compress ")), "")


def _list_versions(origin: Mapping[str, Any]) -> list[str]:
    versions = origin.get("versions")
    if not isinstance(versions, dict):
        return []
    return [f"{name} {each}" for name, each in versions.items() if each != "not installed"]


def _recipe(origin: Mapping[str, Any]) -> dict[str, Any]:
    recipe = origin.get("recipe")
    return recipe if isinstance(recipe, dict) else {}


def escape_markdown(text: object) -> str:
    r"""Return `text` as one line that Markdown and HTML show as it is.

    Example:
        >>> escape_markdown("a|b <i>*c*")
        'a\\|b \\<i\\>\\*c\\*'
    """
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", safe_line(str(text)))
