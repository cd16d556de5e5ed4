"""Benchmarks of files side by side, with their sizes and accuracies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.deployment.bench import Timing
from compress.pipeline.run_dir import INT8_MODEL, MANIFEST, MODEL, read_results
from compress.reporting.tables import Table
from compress.reporting.units import format_accuracy, format_bytes
from compress.runtime.errors import UserError


def expand_runs(paths: Sequence[Path]) -> tuple[list[Path], dict[Path, float | None]]:
    """Replace run directories by their files: teacher, student, final network, and its exports.

    Returns:
        The files; and the test accuracy of those that a run has scored, 0 to 1.

    Raises:
        UserError: a directory is not that of a run, or holds no finished network.
    """
    files: list[Path] = []
    scores: dict[Path, float | None] = {}
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        _, results = read_results(path)
        if not (path / MODEL).is_file():
            raise UserError(f"{path / MANIFEST}: the run is not finished; resume it first")
        for result in results:
            if result.kind in ("teach", "distill"):
                scores[path / result.checkpoint] = result.test
        int8 = next((result for result in results if result.kind == "quantize"), None)
        trained = [result for result in results if result is not int8]
        scores[path / MODEL] = trained[-1].test
        exported = sorted(path.glob("model*.onnx"))
        scores |= dict.fromkeys(exported, trained[-1].test)
        if int8 is not None and path / INT8_MODEL in scores:
            scores[path / INT8_MODEL] = int8.test
        files += [file for file in scores if file.is_relative_to(path)]
    return files, scores


def bench_table(timings: Sequence[Timing], scores: Mapping[Path, float | None]) -> Table:
    """Return timings as a table, ratios first."""
    rows = [
        [
            str(timing.file),
            str(timing.threads),
            str(timing.batch_size),
            f"{timing.ratio:.2f} ×",
            f"{1e3 * timing.p50:.3f} ms",
            f"{1e3 * timing.p90:.3f} ms",
            f"{timing.images_per_second:,.0f}",
            f"{timing.peak_bytes / 1e6:,.0f} MB",
            format_bytes(timing.file.stat().st_size),
            format_accuracy(scores.get(timing.file)),
        ]
        for timing in timings
    ]
    headings = ("file", "threads", "batch", "speed", "p50", "p90", "images/s", "memory")
    return Table([*headings, "file size", "test %"], rows, left=1)
