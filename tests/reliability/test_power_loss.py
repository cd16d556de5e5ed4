"""Power loss: a run whose writes are cut at any point is valid, and resumes.

Every sync, rename and removal of a run is recorded, with what the disk must have by then and what
it may have: contents count from their sync on, names from that of their folder on.
"""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import Tiny, assert_same, contents

import compress
from compress.deployment.formats import find_format
from compress.experiments.experiment import run_experiment
from compress.experiments.ledger import LEDGER, read_ledger
from compress.experiments.sweep import sweep
from compress.models.build import import_builder
from compress.pipeline.manifest import read_results
from compress.quantization.quantize import save_int8
from compress.recipe.load import load_recipe
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
        folders = [self.root, *(Path(path) for path, _, _ in os.walk(self.root))]
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


def check_files(out: Path) -> None:
    """Check each run in a folder, and the ledger of an experiment."""
    for manifest in out.glob("*/run.json"):
        check_run(manifest.parent)
    if (out / LEDGER).exists():
        read_ledger(out)


GRID = """
recipe = "brief.toml"
keys.max_images = 64
[grid]
distill.alpha = [0.0, 0.9]
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sweep", "experiment"])
def test_many_runs_are_valid_wherever_the_power_fails(
    kind: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = tiny.variant("brief.toml", ("epochs = 3", "epochs = 1"), ("epochs = 2", "epochs = 1"))
    grid = tiny.root / "grid.toml"
    grid.write_text(GRID)

    def work(out: Path) -> None:
        if kind == "sweep":
            sweep(load_recipe(str(brief), {"max_images": 64}), ["6k", "3k"], out=out)
        else:
            run_experiment(grid, out=out)

    out, straight = tmp_path / "out", tmp_path / "straight"
    out.mkdir()
    with monkeypatch.context() as patch:
        recorder = Recorder(out, patch)
        work(out)
    out.rename(straight)
    assert len(recorder.cuts) > 50
    # Every seventh, and all at the end, where tables are written.
    for disks in recorder.cuts[:-12:7] + recorder.cuts[-12:]:
        for disk in disks:
            write_disk(disk, out)
            check_files(out)
    write_disk(recorder.cuts[2 * len(recorder.cuts) // 3][1], out)
    work(out)
    for manifest in straight.glob("*/run.json"):
        assert_same(out / manifest.parent.name, manifest.parent)


def write_int8(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "net", [], []))
    save_int8(SimpleNamespace(model=model), path)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.int8.onnx", "page.html"])
def test_a_file_is_whole_or_missing_wherever_the_power_fails(
    name: str,
    tiny: Tiny,
    finished: Path,
    untrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir()
    with monkeypatch.context() as patch:
        recorder = Recorder(path.parent, patch)
        if name == "net.int8.onnx":
            write_int8(path)
        elif name == "page.html":
            compress.report(finished, path, evaluate=False)
        else:
            form = find_format(path)
            assert form is not None
            if not all(map(find_spec, form.packages)):
                pytest.skip(f"{form.name} is not installed")
            compress.export(untrained, form.name, path, builder=import_builder("tinynets:student"))
    whole = contents(path.parent)
    assert name in whole and recorder.cuts[-1] == (whole, whole)
    found = set()
    for disk in itertools.chain.from_iterable(recorder.cuts):
        files = {each: disk[each] for each in disk if not each.startswith(".")}
        assert files.items() <= whole.items()
        # What is asked for comes last.
        assert name not in files or files == whole
        found.add(name in files)
    assert found == {False, True}


@pytest.mark.slow
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
