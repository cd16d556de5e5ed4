"""The run directory: what was done, what came of it, and where to go on after a kill."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import filelock

from compress.recipe import load as recipes
from compress.recipe.schema import Recipe
from compress.runtime import distributed
from compress.runtime.errors import UserError
from compress.runtime.files import PART, write_text

MANIFEST, MODEL, LOCK = "run.json", "model.pth", ".lock"


@dataclass(frozen=True)
class StageResult:
    """The result of a stage, as `run.json` stores it.

    Args:
        name: the stage's name in tables, as ``prune 2``.
        params, macs: torchinfo's count of the stage's model.
        val, test: top-1 accuracy, 0 to 1; `test` is None until the end of the run.
        seconds: duration, without interruptions.
        checkpoint: its weights file, relative to the run directory.
        image_size: side of the images that the model takes, in pixels; `macs` are for one such image.
        epochs: epochs trained.
        bytes: size of the weights file.
    """

    name: str
    kind: str
    network: str
    params: int
    macs: int
    val: float
    seconds: float
    checkpoint: str
    image_size: int | None = None
    epochs: float = 0
    bytes: int = 0
    test: float | None = None


class RunDirectory:
    """A run directory that this process alone writes to, or, of several that share a run, the first alone.

    `manifest` is what `run.json` holds, `results` those of the stages that are done. Everything is written whole or
    not at all, and a stage's weights before its result: a result is the word that the stage need not be done again.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        results = [StageResult(**entry) for entry in manifest["stages"]]
        self.results = list(takewhile(lambda result: (path / result.checkpoint).is_file(), results))

    @property
    def model(self) -> Path:
        """The final weights file."""
        return self.path / MODEL

    @property
    def answers(self) -> Path:
        """The folder for what teachers answered, while the run lasts."""
        return self.path / "answers"

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        whole = len(self.results) == len(self.manifest["stages"]) and self.model.is_file()
        return whole and self.manifest["status"] == "done"

    def write(self, status: str = "running") -> None:
        """Put the manifest and the results on the disk."""
        self.manifest |= {"status": status, "stages": [asdict(result) for result in self.results]}
        write_text(self.path / MANIFEST, json.dumps(self.manifest, indent=2) + "\n")

    def tidy(self, *folders: Path) -> None:
        """Remove `folders`, and what a kill left: half-written files, and the state of stages that are done."""
        if not distributed.is_main():
            return
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        for pattern in (f".*{PART}", f"stages/.*{PART}"):
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)
        for result in self.results:
            (self.path / result.checkpoint).with_suffix(".state").unlink(missing_ok=True)


def default_run_dir(name: str, recipe: Recipe, quick: bool = False) -> Path:
    """Return the run directory of a recipe called `name`: ``runs/`` and its name, budgets and seed."""
    budgets = [
        amount.text + ("" if axis == "params" else f"-{axis}")
        for axis, amount in recipe.budgets().items()
    ]
    parts = [name, *(["quick"] if quick else []), *budgets, f"seed{recipe.seed}"]
    return Path("runs") / "-".join(parts).replace("%", "pc")


@contextmanager
def open_run(path: Path, begun: dict[str, Any], fresh: bool = False) -> Iterator[RunDirectory]:
    """Open the run directory `path` for the run that `begun` describes: "recipe", "seed", "data", as in `run.json`.

    Raises:
        UserError: it holds something else or another run, another process is at work in it, or it cannot be written.
            Then it is as it was.
    """
    if not distributed.is_main():
        run = distributed.broadcast(cast(RunDirectory, None))
        if not (path / LOCK).exists():
            raise UserError(
                f"{path}: process {distributed.rank()} does not see it; --out must be where all machines do"
            )
        yield run
        return
    begun = json.loads(json.dumps(begun | {"status": "running", "stages": []}))
    _check(path, begun, fresh)
    with locked(path):
        manifest = _check(
            path, begun, fresh
        )  # again: it may have been another's to write until now
        run = RunDirectory(path, begun if fresh or manifest is None else _going_on(manifest, begun))
        run.tidy(*((path / "stages", run.answers) if fresh else ()))
        if fresh:
            run.model.unlink(missing_ok=True)
        yield distributed.broadcast(run)


def read_results(path: str | Path) -> tuple[dict[str, Any], list[StageResult]]:
    """The manifest of the run in `path`, and its stages so far."""
    file = Path(path) / MANIFEST
    if not file.is_file():
        raise UserError(f"{path}: not a run directory, there is no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return manifest, [StageResult(**entry) for entry in manifest["stages"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged: {error}; choose another --out") from error


def check_run_dir(path: Path) -> None:
    """Refuse a path where something else is than a run.

    Raises:
        UserError: it is a file, or a directory with other things in it.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, a run needs a directory")
    if not path.is_dir() or (path / MANIFEST).is_file():
        return
    if any(not entry.name.startswith((LOCK, f".{MANIFEST}.")) for entry in path.iterdir()):
        raise UserError(f"{path}: not empty, and not a run directory; choose another --out")


def _check(path: Path, begun: dict[str, Any], fresh: bool) -> dict[str, Any] | None:
    """The manifest that is there, if any; refused unless it is of the run that `begun` describes, or unwanted."""
    check_run_dir(path)
    if not (path / MANIFEST).is_file():
        return None
    manifest, _ = read_results(path)
    if fresh:
        return manifest
    theirs, ours = _decisive(normalize_recipe(manifest.get("recipe", {}))), _decisive(begun["recipe"])
    own = _decisive(normalize_recipe(recipes.read_run_recipe(path / MANIFEST)))
    if ours not in (theirs, own):  # begun so, or from its own run.json
        key = next((k for k in ours if theirs.get(k) != ours[k]), "its keys")
        raise UserError(
            f"{path}: holds a run of another recipe ({key} differs); choose another --out, or --fresh"
        )
    if manifest.get("data") != begun["data"]:
        raise UserError(
            f"{path}: the data is not what this run began with; choose another --out, or --fresh"
        )
    return manifest


def _going_on(manifest: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a run that goes on: what only concerns speed as it is wanted now, files as they were named."""
    named = dict(begun["recipe"])
    for role in recipes.TRAINED_BY:
        if "weights" in manifest["recipe"].get(role, {}):
            named[role] = named[role] | {"weights": manifest["recipe"][role]["weights"]}
    return manifest | {"recipe": named}


def _decisive(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe without what is a matter of speed, or of spelling a path: with another of those it is the same run."""
    decisive: dict[str, Any] = json.loads(
        json.dumps(recipe),
        object_hook=lambda table: {key: table[key] for key in table if key != "compile"},
    )
    for role in recipes.TRAINED_BY:
        if decisive.get(role, {}).get("weights"):
            decisive[role]["weights"] = str(Path(decisive[role]["weights"]).resolve())
    return decisive


def normalize_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe of a run that may be older than some keys: those have their defaults."""
    try:
        plain: dict[str, Any] = json.loads(
            json.dumps(recipes.recipe_to_dict(recipes.recipe_from_dict(recipe)))
        )
        return plain
    except UserError:
        return recipe


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Make the directory `path` this process's own for a while.

    Raises:
        UserError: another process is at work in it, or it cannot be written.
    """
    lock = filelock.FileLock(path / LOCK, timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(f"{path}: another run is at work in this directory") from error
    except FileExistsError as error:
        raise UserError(
            f"{path}: leads to a place that a link names and that is not there; make it first"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()
