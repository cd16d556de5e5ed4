"""The manifest of a run, `run.json`: its types, and reading it. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import ConfigDict, Field

from compress.recipe.load import validate_table
from compress.recipe.types import StageFile
from compress.runtime.checksum import check_table
from compress.runtime.errors import UserError
from compress.runtime.files import require_file
from compress.runtime.plain_files import read_json

MANIFEST = "run.json"

Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class StageResult:
    """The result of a stage, as `run.json` stores it.

    Args:
        name: the stage's name in tables, as ``prune 2``.
        params, macs: torchinfo's count of the stage's model.
        val, test: top-1 accuracy, or another score, 0 to 1; `test` is None until the end of the
            run.
        seconds: duration, without interruptions.
        checkpoint: its weights file, relative to the run directory: ``stages/01-teach.pth``.
        image_size: side of the images that the model takes, in pixels; `macs` are for one such
            image.
        epochs: epochs trained.
        bytes: size of the weights file; of the int8 file if the stage quantizes.
        val_balanced, test_balanced: balanced accuracy, 0 to 1; None if the classes are even.
        milliseconds: median time for one image in the recipe's runtime, if the recipe limits it.
        metric: name of the score.
    """

    name: str
    kind: str
    network: str
    params: Count
    macs: Count
    val: Fraction
    seconds: Amount
    checkpoint: StageFile
    image_size: Count | None = None
    epochs: Amount = 0
    bytes: Count = 0
    test: Fraction | None = None
    val_balanced: Fraction | None = None
    test_balanced: Fraction | None = None
    milliseconds: Amount | None = None
    metric: str = "accuracy"


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="allow"))
class _Networks:
    """The recipe of a run, which may be of another version, as far as a run looks into it."""

    teacher: dict[str, Any] = Field(default_factory=dict)
    student: dict[str, Any] = Field(default_factory=dict)


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class _Manifest:
    """The keys of `run.json` that are read again; others are for people and other programs."""

    recipe: _Networks
    stages: list[StageResult]
    status: str
    data: dict[str, str] = Field(default_factory=dict)
    seed: int = 0
    device: str = ""
    compiled: dict[str, bool] = Field(default_factory=dict)
    mirrors: bool | None = None
    mirrors_by: int = 1
    stage_seconds: list[Amount] = Field(default_factory=list)
    least_seconds: list[Amount] = Field(default_factory=list)
    seconds: Amount = 0.0


def read_results(
    path: str | Path, verified: bool = True
) -> tuple[dict[str, Any], list[StageResult]]:
    """Return the manifest of the run in `path`, and the results of its stages so far.

    Args:
        verified: refuse a manifest that does not match its checksum.

    Raises:
        UserError: there is no run, or its manifest is damaged.
    """
    file = Path(path) / MANIFEST
    if not file.is_file():
        raise UserError(f"{path}: not a run directory, there is no {MANIFEST}")
    try:
        manifest = read_json(require_file(file), "damaged")
        checked = validate_table(_Manifest, manifest, f"{file}: damaged")
    except UserError as error:
        raise UserError(f"{error}; choose another --out") from error
    if verified:
        check_table(manifest, str(file))
    known = StageResult.__dataclass_fields__.keys()
    if unknown := {key for entry in manifest["stages"] for key in entry} - known:
        raise UserError(
            f"{file}: written by another version of compress, with {min(unknown)!r} for each stage;"
            " choose another --out"
        )
    return manifest, checked.stages
