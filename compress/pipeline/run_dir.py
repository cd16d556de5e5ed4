"""The run directory: manifest, stage results, checkpoints, and resuming."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import filelock

from compress.pipeline.manifest import MANIFEST, StageResult, read_results
from compress.recipe.in_memory import is_in_memory
from compress.recipe.load import (
    TRAINED_BY,
    read_run_recipe,
    recipe_from_dict,
    recipe_to_dict,
)
from compress.recipe.schema import Recipe
from compress.runtime import distributed
from compress.runtime.errors import UserError
from compress.runtime.files import PART, write_text

MODEL, LOCK = "model.pth", ".lock"
INT8_MODEL = "model.int8.onnx"


class RunDirectory:
    """A run directory that only one process writes to.

    In a distributed run, this is the main process. Every file is written completely or not at all.
    A stage's weights are written before its result: a result means that the stage is done.

    Args:
        manifest: the content of `run.json`.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        results = [StageResult(**entry) for entry in manifest["stages"]]
        self.results = list(takewhile(lambda r: (path / r.checkpoint).is_file(), results))

    @property
    def model(self) -> Path:
        """The final weights file."""
        return self.path / MODEL

    @property
    def int8_model(self) -> Path:
        """The final network as int8, if the recipe quantizes."""
        return self.path / INT8_MODEL

    @property
    def logits_dir(self) -> Path:
        """Folder of the run's own logits cache, which exists while it runs."""
        return self.path / "logits_cache"

    @property
    def done(self) -> bool:
        """True if nothing is left to do."""
        complete = len(self.results) == len(self.manifest["stages"]) and self.model.is_file()
        return complete and self.manifest["status"] == "done"

    def write(self, status: str = "running") -> None:
        """Write the manifest with the results so far."""
        stages = [asdict(result) for result in self.results]
        self.manifest |= {"status": status, "stages": stages}
        write_text(self.path / MANIFEST, json.dumps(self.manifest, indent=2) + "\n")

    def tidy(self, *folders: Path) -> None:
        """Remove `folders`, half-written files, and the saved state of finished stages."""
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
    """Return the default directory of a run: ``runs/`` and its name, budgets and seed."""
    budgets = [
        amount.text + ("" if axis == "params" else f"-{axis}")
        for axis, amount in recipe.budgets().items()
    ]
    parts = [name, *(["quick"] if quick else []), *budgets, f"seed{recipe.seed}"]
    return Path("runs") / "-".join(parts).replace("%", "pc")


@contextmanager
def open_run(path: Path, begun: dict[str, Any], fresh: bool = False) -> Iterator[RunDirectory]:
    """Open the run directory `path`, and lock it.

    Args:
        begun: the run's "recipe", "seed" and "data", as in `run.json`.
        fresh: discard what an earlier run left there.

    Raises:
        UserError: the directory holds something else or another run, another process works in it,
            or it cannot be written. It is unchanged then.
    """
    if not distributed.is_main():
        run_dir = distributed.broadcast(cast(RunDirectory, None))
        if not (path / LOCK).exists():
            raise UserError(
                f"{path}: process {distributed.rank()} does not see it;"
                " --out must be on storage that all machines share"
            )
        yield run_dir
        return
    begun = json.loads(json.dumps(begun | {"status": "running", "stages": []}))
    _check_same_run(path, begun, fresh)
    with locked(path):
        # Check again: another process may have written in the meantime.
        manifest = _check_same_run(path, begun, fresh)
        resumes = manifest is not None and not fresh
        run_dir = RunDirectory(path, _resume_manifest(manifest or {}, begun) if resumes else begun)
        run_dir.tidy(*((path / "stages", run_dir.logits_dir) if fresh else ()))
        if fresh:
            run_dir.model.unlink(missing_ok=True)
            run_dir.int8_model.unlink(missing_ok=True)
        yield distributed.broadcast(run_dir)


def check_run_dir(path: Path) -> None:
    """Check that `path` is a run directory, is empty, or does not exist.

    Raises:
        UserError: it is a file, or a directory with other things in it.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, a run needs a directory")
    if not path.is_dir() or (path / MANIFEST).is_file():
        return
    if any(not entry.name.startswith((LOCK, f".{MANIFEST}.")) for entry in path.iterdir()):
        raise UserError(f"{path}: not empty, and not a run directory; choose another --out")


def normalize_recipe(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a stored run with the defaults of keys that it does not have."""
    try:
        table: dict[str, Any] = json.loads(json.dumps(recipe_to_dict(recipe_from_dict(recipe))))
        return table
    except UserError:
        return recipe


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Create the directory `path` and lock it against other processes.

    Raises:
        UserError: another process works in it, or it cannot be written.
    """
    lock = filelock.FileLock(path / LOCK, timeout=0)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(f"{path}: another run is working in this directory") from error
    except FileExistsError as error:
        raise UserError(
            f"{path}: is a link to a folder that does not exist; create it first"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); choose another --out") from error
    try:
        yield
    finally:
        lock.release()


def _check_same_run(path: Path, begun: dict[str, Any], fresh: bool) -> dict[str, Any] | None:
    """Return the manifest that exists, if any.

    Raises:
        UserError: it belongs to another run than `begun`, and `fresh` is False.
    """
    check_run_dir(path)
    if not (path / MANIFEST).is_file():
        return None
    manifest, _ = read_results(path)
    if fresh:
        return manifest
    ours = _decisive_keys(begun["recipe"])
    theirs = _decisive_keys(normalize_recipe(manifest.get("recipe", {})))
    # A run that is repeated from its own run.json starts from its own copies of trained networks.
    own = _decisive_keys(normalize_recipe(read_run_recipe(path / MANIFEST)))
    if ours not in (theirs, own):
        key = next((k for k in ours if theirs.get(k) != ours[k]), "its keys")
        raise UserError(
            f"{path}: holds a run of another recipe ({key} differs);"
            " choose another --out, or --fresh"
        )
    if manifest.get("data") != begun["data"]:
        raise UserError(
            f"{path}: the data differs from what this run started with;"
            " choose another --out, or --fresh"
        )
    return manifest


def _resume_manifest(manifest: dict[str, Any], begun: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a resumed run.

    Keys about speed are taken from the new recipe; names of weights files stay as they were.
    """
    recipe = dict(begun["recipe"])
    for role in TRAINED_BY:
        weights = manifest["recipe"].get(role, {}).get("weights")
        recipe[role] = recipe[role] | {"weights": weights}
    return manifest | {"recipe": recipe}


def _decisive_keys(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe without the keys that only concern speed, and with absolute paths."""
    decisive: dict[str, Any] = json.loads(
        json.dumps(recipe),
        object_hook=lambda table: {key: table[key] for key in table if key != "compile"},
    )
    for role in TRAINED_BY:
        weights = decisive.get(role, {}).get("weights")
        if weights and not is_in_memory(weights):
            decisive[role]["weights"] = str(Path(weights).resolve())
    return decisive
