"""Benchmarks: every file in a process of its own, in turns, compared with the first."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from exported_files import Exported, save_foreign

from compress.cli.main import main
from compress.deployment.bench import bench_files
from compress.runtime.errors import UserError


@pytest.mark.slow
def test_every_file_is_timed_for_every_batch_size(exported: Exported) -> None:
    files = [exported.onnx.file, exported.pixels.file]
    timings = bench_files(files, batch_sizes=(1, 4), rounds=2)
    assert [(each.file, each.batch_size) for each in timings] == [
        (file, size) for size in (1, 4) for file in files
    ]
    assert all(each.ratio == 1 for each in timings[::2])
    for each in timings:
        assert 0 < each.p50 <= each.p90 and each.ratio > 0
        assert each.images_per_second == pytest.approx(each.batch_size / each.p50)
        # torch alone would take more.
        assert 10e6 < each.peak_bytes < 200e6


@pytest.mark.slow
def test_file_that_cannot_be_used_is_named(exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"damaged\.onnx") as refused:
        bench_files([exported.onnx.file, tmp_path / "damaged.onnx"], rounds=1)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.pth"], "none.pth: no such file"),
        ([__file__, "--threads", "0"], "'0'"),
        ([__file__, "--threads", "1,4000"], "4000 threads"),
        ([__file__, "--batch", "1,x"], "'1,x'"),
        ([str(Path(__file__).parent)], "not a run directory"),
        ([__file__, "--to", "onxn"], "'onxn'"),
    ],
)
def test_bench_refuses(words: list[str], message: str) -> None:
    refused = CliRunner().invoke(main, ["bench", *words])
    assert refused.exit_code == 2 and message in refused.stderr


def test_more_threads_than_cores_are_refused_before_anything_is_timed() -> None:
    with pytest.raises(UserError, match="4000 threads"):
        bench_files([__file__], threads=(1, 4000))


def test_a_process_that_has_ended_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, file = tmp_path / "worker", tmp_path / "model.onnx"
    worker.write_text("#!/bin/sh\nexec <&-\necho '{\"ready\": true}'\n")
    worker.chmod(0o700)
    file.touch()
    monkeypatch.setattr("sys.executable", str(worker))
    done = CliRunner().invoke(main, ["bench", str(file)])
    assert done.exit_code == 2 and f"{file}: its process ended" in done.stderr


@pytest.mark.slow
def test_size_of_another_programs_images_is_asked_for(tmp_path: Path) -> None:
    path = save_foreign(tmp_path / "other.onnx", ("n", 3, "h", "w"))
    with pytest.raises(UserError, match=r"other\.onnx: .*--image-size"):
        bench_files([path], rounds=1)
    (timing,) = bench_files([path], image_size=4, rounds=1)
    assert timing.ratio == 1
