"""Sensitivity: what cuts of single channel groups cost and save. Does not import torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from compress.recipe.load import validate_table
from compress.recipe.types import Fraction
from compress.runtime.errors import UserError
from compress.runtime.sealed_json import read_sealed

# Name under which a report finds an analysis in a run directory.
ANALYSIS = "analysis.json"

Count = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class CutEffect:
    """A cut of one channel group alone, without training after it.

    Args:
        fraction: of the group's units that was asked for, 0 to 1.
        removed: units removed, those that score lowest.
        accuracy: top-1 accuracy after it, 0 to 1.
        params, macs: parameters and multiply-adds that it saves in the whole network.
        nanoseconds: of the time for one image that it saves, as predicted; None if no time was
            measured, negative for widths that processors dislike.
    """

    fraction: Fraction
    removed: Count
    accuracy: Fraction
    params: Count
    macs: Count
    nanoseconds: int | None = None


@dataclass(frozen=True)
class GroupSensitivity:
    """The cuts of one channel group.

    Args:
        name: name of the group's root layer.
        layers: names of the layers that lose output channels together.
        units: smallest parts that can be removed; usually one channel of each layer.
        cuts: a cut for each fraction.
    """

    name: str
    layers: tuple[str, ...]
    units: Count
    cuts: tuple[CutEffect, ...]


@dataclass(frozen=True)
class Sensitivity:
    """What cuts of each channel group alone cost and save.

    Args:
        model: the file that was analysed.
        network: name of its network.
        images: the images that accuracies are measured on, in a few words.
        importance: the score that ranks the units of a group.
        accuracy: the task's score before any cut, 0 to 1: top-1 accuracy, or mean IoU of masks.
        params, macs: of the network before any cut.
        fractions: of each group's units that are removed, 0 to 1.
        groups: the channel groups, in the order of their layers.
        uncut_layers: names of the layers whose groups cannot be cut.
        nanoseconds: for one image before any cut, if time was measured.
        runtime: where time was measured, in a few words.
        metric: what the score is called.
    """

    model: str
    network: str
    images: str
    importance: str
    accuracy: Fraction
    params: Count
    macs: Count
    fractions: tuple[Fraction, ...]
    groups: tuple[GroupSensitivity, ...]
    uncut_layers: tuple[str, ...] = ()
    nanoseconds: Count | None = None
    runtime: str = ""
    metric: str = "accuracy"

    def as_json(self) -> str:
        """Return the analysis as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"


def read_sensitivity(path: Path) -> Sensitivity:
    """Read an analysis from JSON, with a checksum or without.

    Raises:
        UserError: the file does not exist, is damaged, or holds something else.
    """
    what = f"{path}: not an analysis by `compress analyze`"
    found = validate_table(Sensitivity, read_sealed(path), what)
    if any(len(group.cuts) != len(found.fractions) for group in found.groups):
        raise UserError(f"{what}: groups: must have a cut for each of fractions")
    return found
