"""What a run was asked for and what came out, in words and numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.pipeline.manifest import StageResult
from compress.recipe.budget import Axis, Cost, Limits
from compress.recipe.load import recipe_from_dict
from compress.recipe.write_toml import recipe_to_toml
from compress.reporting.units import format_accuracy, format_bytes, format_duration, format_macs
from compress.runtime.errors import UserError

# Limits as `run.json` names them.
LIMITS: dict[str, Axis] = {
    "params": "params",
    "macs": "macs",
    "bytes": "bytes",
    "nanoseconds": "latency",
}


@dataclass(frozen=True)
class Fact:
    """A number with its name, and a few words on it."""

    name: str
    value: str
    about: str = ""


@dataclass(frozen=True)
class Asked:
    """A budget, and the fraction of it that the final network uses."""

    limit: str
    used: str
    fraction: float


def list_facts(
    results: Sequence[StageResult], file_bytes: int | None, seconds: float | None = None
) -> list[Fact]:
    """Return what came out of a run: the numbers that matter, compared with its first network.

    Args:
        file_bytes: size of the final weights file, if there is one.
        seconds: wall time of the run; the sum of the stages if left out.
    """
    first, last = results[0], results[-1]
    test = last.test is not None
    accuracy = last.test if last.test is not None else last.val
    before = first.test if test and first.test is not None else first.val
    other = name_network(first) if first is not last else ""
    # Of other images, multiply-adds are those of another network.
    same_images = first.image_size == last.image_size
    macs = _ratio(first.macs, last.macs, other) if same_images else ""
    facts = [
        Fact(
            f"{'test' if test else 'validation'} {last.metric}",
            f"{format_accuracy(accuracy)} %",
            f"{100 * (accuracy - before):+.2f} points from {other}" if other else "",
        ),
        Fact("parameters", f"{last.params:,}", _ratio(first.params, last.params, other)),
        Fact("multiply-adds", format_macs(last.macs), macs),
    ]
    balanced = last.test_balanced if test else last.val_balanced
    if balanced is not None:
        facts.insert(1, Fact("balanced accuracy", f"{format_accuracy(balanced)} %"))
    if last.milliseconds is not None:
        facts.append(Fact("one image", f"{last.milliseconds:.3f} ms"))
    if last.kind == "quantize":
        facts.append(Fact("int8 file", format_bytes(last.bytes)))
    elif file_bytes is not None:
        facts.append(Fact("weights file", format_bytes(file_bytes)))
    if seconds is not None:
        return [*facts, Fact("the run took", format_duration(seconds))]
    stages = sum(result.seconds for result in results)
    return [*facts, Fact("all stages took", format_duration(stages))]


def name_network(result: StageResult) -> str:
    """Return what a stage's network is called in a report: the teacher, the student, or as is."""
    return {"teach": "the teacher", "distill": "the student"}.get(result.kind, result.name)


def list_asked(manifest: Mapping[str, Any], result: StageResult) -> list[Asked]:
    """Return the budgets of a run, as numbers, and what its last network uses of each."""
    budget = manifest.get("budget")
    found = budget if isinstance(budget, dict) else {}
    limits = Limits(
        **{
            axis: found[key]
            for key, axis in LIMITS.items()
            if isinstance(found.get(key), int) and found[key] > 0
        }
    )
    latency = round(1e6 * (result.milliseconds or 0))
    cost = Cost(result.params, result.macs, result.bytes, latency)
    asked = []
    for axis, fraction in limits.usages(cost).items():
        if axis == "bytes" or getattr(cost, axis):
            limit = Limits(**{axis: limits.as_dict()[axis]})
            asked.append(Asked(str(limit), limit.describe(cost), fraction))
    return asked


def describe_recipe(manifest: Mapping[str, Any]) -> str:
    """Return a run's recipe as TOML; as JSON, if this version does not know all of it."""
    try:
        return recipe_to_toml(recipe_from_dict(manifest["recipe"]))
    except UserError:
        return json.dumps(manifest["recipe"], indent=1)


def list_origin(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return data, seed, machine and versions of a run, each with its name."""
    data, versions = manifest.get("data", {}), manifest.get("versions")
    checksum = str(data.get("checksum", ""))[:12]
    found = [
        ("data", f"{data.get('name', '')}, checksum of the training images {checksum}…"),
        ("seed", str(manifest.get("seed", ""))),
        ("machine", str(manifest.get("device", ""))),
    ]
    packages = versions if isinstance(versions, dict) else {}
    return [*found, *((str(name), str(version)) for name, version in packages.items())]


def _ratio(before: int, after: int, other: str) -> str:
    if not other or not after or before == after:
        return ""
    ratio = before / after
    if ratio < 1:
        return f"{after / before:.3g} × {other}"
    return f"1/{ratio:,.0f} of {other}" if ratio >= 10 else f"1/{ratio:.1f} of {other}"
