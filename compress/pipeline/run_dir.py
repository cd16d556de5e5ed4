"""The run directory: manifest, stage results, checkpoints, and resuming."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import filelock

from compress.pipeline.manifest import MANIFEST, StageResult, read_results
from compress.pipeline.same_run import Stages, changes_stage, require_same_run, resume_manifest
from compress.recipe.schema import Recipe
from compress.recipe.types import INT8, STAGES
from compress.runtime import distributed
from compress.runtime.checksum import check_file
from compress.runtime.errors import UserError
from compress.runtime.files import make_folder, remove_parts
from compress.runtime.sealed_json import write_sealed

MODEL, LOCK = "model.pth", ".lock"
# What tools that log the run have got so far.
LOGGED = "logged.json"
INT8_MODEL = f"model{INT8}"


class RunDirectory:
    """A run directory that only one process writes to.

    In a distributed run, this is the main process. Every file is written completely or not at all.
    A stage's weights are written before its result: a result means that the stage is done.

    Args:
        manifest: the content of `run.json`.
        started: start of this call, as given by time.monotonic; now if left out.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], started: float | None = None) -> None:
        self.path, self.manifest = path, manifest
        self._started = time.monotonic() if started is None else started
        self._earlier = float(manifest.get("seconds", 0.0))
        # Lines on what is damaged, for the log.
        self.notes: list[str] = []
        results = [StageResult(**entry) for entry in manifest["stages"]]
        self.results = list(takewhile(lambda r: (path / r.checkpoint).is_file(), results))
        if not self.is_done():
            self.results = list(takewhile(self._is_intact, self.results))

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

    def is_done(self) -> bool:
        """Return True if nothing is left to do; the final files are read and checked."""
        complete = len(self.results) == len(self.manifest["stages"]) > 0
        finals = [self.model]
        if complete and self.results[-1].kind == "quantize":
            finals.append(self.int8_model)
        return (
            complete
            and self.manifest["status"] == "done"
            and all(file.is_file() and self._check(file, "made again") for file in finals)
        )

    def _is_intact(self, result: StageResult) -> bool:
        file, then = self.path / result.checkpoint, f"{result.name} is done again"
        int8 = file.with_suffix(INT8)
        whole = result.kind != "quantize" or (int8.is_file() and self._check(int8, then))
        return self._check(file, then) and whole

    def _check(self, file: Path, then: str) -> bool:
        """Return True if a file matches its checksum; else note that, and what happens then."""
        try:
            check_file(file)
        except UserError as error:
            note = f"{error}; {then}"
            self.notes += [] if note in self.notes else [note]
            return False
        return True

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, in all calls together."""
        return self._earlier + time.monotonic() - self._started

    def add_seconds(self, seconds: float) -> None:
        """Count time of an earlier call, which was killed before it could write it."""
        self._earlier += seconds

    def write(self, status: str = "running") -> None:
        """Write the manifest with the results so far."""
        stages = [asdict(result) for result in self.results]
        self.manifest |= {"status": status, "seconds": round(self.seconds, 1), "stages": stages}
        write_sealed(self.path / MANIFEST, self.manifest, indent=2)

    def forget(self, count: int) -> None:
        """Discard all stages after the first `count`, with what the run decided for them."""
        for result in self.results[count:]:
            file = self.path / result.checkpoint
            for suffix in (".pth", INT8, ".jsonl"):
                file.with_suffix(suffix).unlink(missing_ok=True)
        self.results = self.results[:count]
        names = {result.name for result in self.results}
        for key in ("compiled", "fitted"):
            known = self.manifest.get(key, {})
            self.manifest[key] = {name: known[name] for name in known if name in names}
        if count <= self.manifest.get("mirrors_by", 1):
            for key in ("mirrors", "mirrors_by"):
                self.manifest.pop(key, None)
        for final in (self.model, self.int8_model, self.path / LOGGED):
            final.unlink(missing_ok=True)
        self.write()

    def remove_states(self) -> None:
        """Remove the states of unfinished stages."""
        for file in (self.path / STAGES).glob("*.state"):
            file.unlink()

    def tidy(self, *folders: Path) -> None:
        """Remove `folders`, half-written files, and the saved state of finished stages."""
        if not distributed.is_main():
            return
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        for written in (self.path, self.path / STAGES):
            remove_parts(written)
        for result in self.results:
            for suffix in (".state", ".previous.state", ".times"):
                (self.path / result.checkpoint).with_suffix(suffix).unlink(missing_ok=True)


def default_run_dir(name: str, recipe: Recipe, quick: bool = False) -> Path:
    """Return the default directory of a run: ``runs/`` and its name, budgets and seed."""
    budgets = [
        amount.text + ("" if axis == "params" else f"-{axis}")
        for axis, amount in recipe.budgets().items()
    ]
    parts = [name, *(["quick"] if quick else []), *budgets, f"seed{recipe.seed}"]
    return Path("runs") / "-".join(parts).replace("%", "pc").replace(" and ", "-")


@contextmanager
def open_run(
    path: Path,
    begun: dict[str, Any],
    fresh: bool = False,
    stages: Stages | None = None,
    started: float | None = None,
) -> Iterator[RunDirectory]:
    """Open the run directory `path`, and lock it.

    Args:
        begun: the run's "recipe", "seed" and "data", as in `run.json`.
        fresh: discard what an earlier run left there.
        stages: of the plan; those from ``stages.redo`` on are discarded.
        started: as for `RunDirectory`.

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
    stages = stages or Stages()
    begun = json.loads(json.dumps(begun | {"status": "running", "stages": []}))
    _find_manifest(path, begun, fresh, stages)
    with locked(path):
        # Check again: another process may have written in the meantime.
        manifest = _find_manifest(path, begun, fresh, stages)
        if manifest is None or fresh:
            run_dir = RunDirectory(path, begun, started)
        else:
            run_dir = RunDirectory(path, resume_manifest(manifest, begun), started)
            _discard_changed(run_dir, manifest, begun, stages)
        run_dir.tidy(*((path / STAGES, run_dir.logits_dir) if fresh else ()))
        if fresh:
            for final in (run_dir.model, run_dir.int8_model, path / LOGGED):
                final.unlink(missing_ok=True)
        yield distributed.broadcast(run_dir)


def _discard_changed(
    run_dir: RunDirectory, manifest: dict[str, Any], begun: dict[str, Any], stages: Stages
) -> None:
    """Discard the stages to do again, and the state of one that goes on with another recipe."""
    if stages.redo is not None:
        # Stages that are done again may have other epochs.
        for key in ("stage_seconds", "least_seconds"):
            run_dir.manifest.pop(key, None)
        if stages.redo <= len(run_dir.results):
            run_dir.remove_states()
            run_dir.forget(stages.redo)
    done = len(run_dir.results)
    if done < len(stages.positions) and changes_stage(manifest, begun, stages.positions[done]):
        run_dir.remove_states()


def check_run_dir(path: Path) -> None:
    """Check that `path` is a run directory, is empty, or does not exist.

    Raises:
        UserError: it is a file, or a directory with other things in it.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file, a run needs a directory")
    if not path.is_dir():
        return
    if (path / STAGES).is_symlink():
        raise UserError(
            f"{path / STAGES}: is a link; the files of a run lie in its directory, which may be one"
        )
    if (path / MANIFEST).is_file():
        return
    if any(not entry.name.startswith((LOCK, f".{MANIFEST}.")) for entry in path.iterdir()):
        raise UserError(f"{path}: not empty, and not a run directory; choose another --out")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Create the directory `path` and lock it against other processes.

    Raises:
        UserError: another process works in it, or it cannot be written.
    """
    lock = filelock.FileLock(path / LOCK, timeout=0)
    try:
        make_folder(path)
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


def _find_manifest(
    path: Path, begun: dict[str, Any], fresh: bool, stages: Stages
) -> dict[str, Any] | None:
    """Return the manifest that exists, if any.

    Raises:
        UserError: it belongs to another run than `begun`, and `fresh` is False.
    """
    check_run_dir(path)
    if not (path / MANIFEST).is_file():
        if stages.redo is not None:
            raise UserError(f"{path}: no run to go on with; leave --from out")
        return None
    if fresh:
        # Of a run whose manifest is damaged, nothing is needed either.
        return read_results(path, verified=False)[0]
    return require_same_run(path, begun, stages)
