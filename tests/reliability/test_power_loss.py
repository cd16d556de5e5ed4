"""Power loss: a run whose writes are cut at any point is valid, and resumes.

Every sync, rename and removal of a run is recorded, with what the disk must have by then and what
it may have: contents count from their sync on, names from that of their folder on.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import Tiny, assert_same

import compress
from compress.pipeline.manifest import read_results
from compress.runtime.checksum import check_file

# Files by their path in the run directory.
Disk = dict[str, bytes]


class Recorder:
    """Records what a power loss would leave, after each operation on the files in `root`."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.synced: dict[int, bytes] = {}
        self.names: dict[Path, dict[str, int]] = {}
        self.cuts: list[tuple[Disk, Disk]] = []
        patch.setattr(os, "fsync", self._sync)
        for name in ("replace", "unlink"):
            patch.setattr(Path, name, self._recording(getattr(Path, name)))

    def _recording(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            done = real(*arguments, **options)
            self._record()
            return done

        return call

    def _sync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self.names[path] = _list(path)
        else:
            self.synced[status.st_ino] = path.read_bytes()
        self._record()

    def _record(self) -> None:
        folders = [self.root, self.root / "stages"]
        must = {folder: self.names.get(folder, {}) for folder in folders}
        may = {folder: _list(folder) for folder in folders}
        cut = (self._contents(must), self._contents(may))
        if not self.cuts or cut != self.cuts[-1]:
            self.cuts.append(cut)

    def _contents(self, names: dict[Path, dict[str, int]]) -> Disk:
        return {
            str((folder / name).relative_to(self.root)): self.synced.get(inode, b"")
            for folder, files in names.items()
            for name, inode in files.items()
        }


def _list(folder: Path) -> dict[str, int]:
    if not folder.is_dir():
        return {}
    return {entry.name: entry.inode() for entry in os.scandir(folder) if entry.is_file()}


def write_disk(disk: Disk, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    for name, content in disk.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)


def check_run(out: Path) -> int:
    """Check that all that a run directory says is so; return the number of its stages."""
    if not (out / "run.json").exists():
        return 0
    manifest, results = read_results(out)
    for file in (*(out / result.checkpoint for result in results), *out.rglob("*.state")):
        check_file(file)
    if manifest["status"] == "done":
        check_file(out / "model.pth")
    return len(results)


def test_a_run_is_valid_wherever_the_power_fails(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with monkeypatch.context() as patch:
        recorder = Recorder(out, patch)
        compress.run(str(tiny.recipe), out=out)
    assert len(recorder.cuts) > 50
    cut = tmp_path / "cut"
    stages: list[int] = []
    for must, may in recorder.cuts:
        for disk in (must, may):
            write_disk(disk, cut)
            stages.append(check_run(cut))
    # What has been done once is never lost again.
    assert stages[::2] == sorted(stages[::2]) and set(stages) == set(range(7))
    # In the middle of a write, it goes on to the same end.
    write_disk(recorder.cuts[2 * len(recorder.cuts) // 3][1], cut)
    compress.run(str(tiny.recipe), out=cut)
    assert_same(cut, finished)
