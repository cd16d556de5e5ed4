"""Rot of what is written beside weights: each changed bit is named, or the part is made again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from compress.data.cache import ensure_folder
from compress.data.folder_checksums import check_folder, seal_folder
from compress.deployment.measurements import Measurements
from compress.experiments.ledger import Entry, read_ledger, write_entry, write_rows
from compress.experiments.results import read_trials
from compress.models.tensor_file import write_tensors
from compress.pipeline.history import read_history
from compress.pipeline.manifest import read_results
from compress.pipeline.run_dir import LOGGED, RunDirectory
from compress.pruning.sensitivity import (
    CutEffect,
    GroupSensitivity,
    Sensitivity,
    read_sensitivity,
)
from compress.reporting.bench_file import Bench, BenchRow, read_bench
from compress.reporting.loggers.tracking import _read_logged
from compress.reporting.sensitivity import write_analysis
from compress.runtime.checksum import check_file, seal_file
from compress.runtime.errors import UserError
from compress.runtime.sealed_json import seal_line, write_sealed

EPOCHS = [{"epoch": float(n), "loss": 2.5 / n, "val": 0.5, "seconds": 1.5} for n in (1, 2)]
AGAIN = 9.0


def write_ledger(file: Path) -> None:
    write_rows(file.parent, {"lr=0.1,seed=0": {"lr": "0.1"}})
    write_entry(file.parent, "lr=0.1,seed=0", Entry({"data": "mnist", "seed": 0}, "failed"))


def write_benchmark(file: Path) -> None:
    write_sealed(file, asdict(Bench("cpu", (BenchRow("a", 1, 1, 0.5, 0.75, 1.0, 9, 9, 0.25),))))


def write_sensitivity(file: Path) -> None:
    cuts = (CutEffect(0.5, 2, 0.25, 5, 6),)
    group = GroupSensitivity("conv", ("conv",), 4, cuts)
    write_analysis(Sensitivity("m", "net", "9", "taylor", 0.5, 9, 9, (0.5,), (group,)), file)


# Kinds of files: name, writer, and reader of the file.
KINDS: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], object]]] = {
    "ledger": ("experiment.json", write_ledger, lambda file: read_ledger(file.parent)),
    "benchmark": ("bench.json", write_benchmark, read_bench),
    "analysis": ("analysis.json", write_sensitivity, read_sensitivity),
    "metrics of epochs": (
        "01-teach.jsonl",
        lambda file: file.write_text("".join(map(seal_line, EPOCHS))),
        read_history,
    ),
    "files in a cache": (
        ".checksums.json",
        lambda file: (file.with_name("a.img").write_bytes(b"image"), seal_folder(file.parent)),
        lambda file: check_folder(file.parent),
    ),
    "what was logged": (
        LOGGED,
        lambda file: write_sealed(file, {"wandb": {"id": "x", "step": 12}}),
        lambda file: _read_logged(file.parent),
    ),
    "times of layers": (
        "times.jsonl",
        lambda file: Measurements(file).get("conv", lambda: 1.5),
        lambda file: Measurements(file).get("conv", lambda: AGAIN),
    ),
}
# What is made again, by its kind.
MADE_AGAIN: dict[str, object] = {"what was logged": {}, "times of layers": AGAIN}


@pytest.mark.parametrize("kind", KINDS)
def test_no_changed_bit_of_a_record_is_used(kind: str, tmp_path: Path) -> None:
    name, write, read = KINDS[kind]
    file = tmp_path / name
    write(file)
    whole = file.read_bytes()
    before, noticed = read(file), 0
    assert before not in (AGAIN, {})
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        try:
            after = read(file)
            # White space, and what is made again.
            assert after == before or after == MADE_AGAIN.get(kind)
            noticed += after != before
        except UserError as error:
            assert str(file) in str(error) and "\n" not in str(error)
            noticed += 1
        # A part that is made again may be appended.
        file.write_bytes(whole)
    assert noticed > len(whole) / 2


def test_a_changed_file_of_the_cache_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path))

    def fill(staging: Path) -> None:
        (staging / "set" / "raw").mkdir(parents=True)
        (staging / "set" / "raw" / "labels").write_bytes(bytes(9))

    ensure_folder("any", "set", fill)
    ensure_folder("any", "set", fill)
    labels = tmp_path / "set" / "raw" / "labels"
    labels.write_bytes(bytes(8) + b"\1")
    with pytest.raises(UserError, match=rf"{labels}: damaged.* remove {tmp_path / 'set'}"):
        ensure_folder("any", "set", fill)
    shutil.rmtree(tmp_path / "set")
    ensure_folder("any", "set", fill)
    assert labels.read_bytes() == bytes(9)


@pytest.mark.parametrize("suffix", [".onnx", ".pte", ".xml"])
def test_a_checksum_covers_the_files_beside(suffix: str, tmp_path: Path) -> None:
    file, beside = tmp_path / f"net{suffix}", tmp_path / "net.bin"
    file.write_bytes(b"graph" * 9)
    check_file(file)
    beside.write_bytes(b"weights")
    seal_file(file, [beside])
    check_file(file, [beside])
    for each in (file, beside):
        whole = each.read_bytes()
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 1 << place % 8
            each.write_bytes(changed)
            with pytest.raises(UserError, match=rf"{file}: damaged.*net\.bin"):
                check_file(file, [beside])
        each.write_bytes(whole)


def test_a_damaged_trial_is_named_in_a_report(finished: Path, tmp_path: Path) -> None:
    recipe = json.loads((finished / "run.json").read_text())["recipe"]
    write_rows(tmp_path, {"seed=0": {"lr": "0.1"}})
    write_entry(tmp_path, "seed=0", Entry(recipe))
    shutil.copytree(finished, tmp_path / "seed=0")
    (trial,) = read_trials(tmp_path)
    assert trial.results == tuple(read_results(finished)[1]) and trial.error is None
    file = tmp_path / "seed=0" / "run.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    (trial,) = read_trials(tmp_path)
    assert trial.results == () and str(file) in (trial.error or "")


def test_a_stage_whose_int8_file_is_damaged_is_done_again(tmp_path: Path) -> None:
    stage = dict(name="quantize", kind="quantize", network="net", params=1, macs=1)
    stage |= dict(val=0.5, seconds=1.0, checkpoint="stages/01-quantize.pth")
    manifest = {"status": "running", "stages": [stage]}
    write_tensors({"a": 1}, tmp_path / "stages" / "01-quantize.pth")
    int8 = tmp_path / "stages" / "01-quantize.int8.onnx"
    int8.write_bytes(b"network")
    seal_file(int8)
    assert len(RunDirectory(tmp_path, manifest).results) == 1
    int8.write_bytes(b"N" + int8.read_bytes()[1:])
    opened = RunDirectory(tmp_path, manifest)
    assert opened.results == [] and f"{int8}: damaged" in opened.notes[0]
    int8.unlink()
    assert RunDirectory(tmp_path, manifest).results == []
