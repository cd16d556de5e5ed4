"""Benchmarks of run directories: which networks are timed, under which names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import FILES

import compress
from compress.cli.main import main
from compress.deployment.bench import Timing
from compress.models.build import import_builder
from compress.pipeline.run_dir import read_results
from compress.reporting.bench import Contender, bench_table, list_contenders
from compress.runtime.checksum import seal_table
from compress.runtime.errors import UserError


def test_run_directory_gives_teacher_student_final_and_exported_files(
    finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "model.onnx").write_bytes(b"")
    (run / "model.int8.onnx").write_bytes(b"")
    test = {result.kind: result.test for result in read_results(run)[1]}
    found = list_contenders([run, run / "model.pth"])
    assert [(each.file.relative_to(run).as_posix(), each.accuracy) for each in found] == [
        (FILES[0], test["teach"]),
        (FILES[1], test["distill"]),
        ("model.pth", test["finetune"]),
        # No run has scored these.
        ("model.int8.onnx", None),
        ("model.onnx", None),
    ]
    assert [each.label for each in list_contenders([run])[:3]] == [
        "teacher",
        "student",
        "model.pth",
    ]


@pytest.mark.slow
def test_an_exported_file_is_as_accurate_as_the_weights_that_it_is_from(
    finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    builder = import_builder("tinynets:student")
    compress.export(run / "model.pth", "onnx", run / "model.onnx", builder=builder)
    assert list_contenders([run])[-1].accuracy == read_results(run)[1][-1].test
    # Another network takes their place.
    shutil.copy(run / FILES[1], run / "model.pth")
    assert list_contenders([run])[-1].accuracy is None


def test_networks_that_a_run_was_given_are_timed(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    manifest = json.loads((run / "run.json").read_text())
    taught = tmp_path / "taught.pth"
    shutil.move(run / FILES[0], taught)
    manifest["recipe"]["teacher"]["weights"] = str(taught)
    manifest["stages"] = manifest["stages"][1:]
    (run / "run.json").write_text(json.dumps(seal_table(manifest)))
    assert list_contenders([run])[0] == Contender(taught, "teacher")


def test_unfinished_run_is_refused(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "model.pth").unlink()
    with pytest.raises(UserError, match=r"run\.json.*not finished"):
        list_contenders([run])


def test_what_is_alike_for_all_rows_is_in_the_title(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    file.write_bytes(bytes(5000))
    timings = [Timing(file, 1, batch, 0.002, 0.003, 2.5, 10**8) for batch in (1, 8)]
    table = bench_table(timings, [Contender(file, "final", 0.9)])
    assert table.title == "threads 1" and list(table.headings[:3]) == ["file", "speed", "batch"]
    row = dict(zip(table.headings, table.rows[1], strict=True))
    assert (row["file"], row["speed"], row["test %"]) == ("final", "2.50 ×", "90.00")
    assert (row["p50"], row["images/s"], row["file size"]) == ("2.000 ms", "4,000", "5 KB")


@pytest.mark.slow
def test_run_of_custom_networks_is_exported_and_timed(finished: Path) -> None:
    words = ["--to", "onnx", "--builder", "tinynets:teacher", "--builder", "tinynets:student"]
    done = CliRunner().invoke(main, ["bench", str(finished), *words], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert all(f"{name} as onnx" in done.output for name in ("teacher", "student", "model.pth"))
