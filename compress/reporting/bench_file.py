"""Benchmarks in files: written by `compress bench --out`, read by reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from compress.deployment.formats import count_bytes
from compress.recipe.load import validate_table
from compress.recipe.types import Fraction
from compress.reporting.tables import Table
from compress.reporting.units import format_accuracy, format_bytes
from compress.runtime.device import device_name
from compress.runtime.sealed_json import read_sealed, write_sealed

if TYPE_CHECKING:
    from compress.deployment.bench import Timing
    from compress.reporting.bench import Contender

# Name under which a report finds a benchmark in a run directory.
BENCH = "bench.json"

Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class BenchRow:
    """The time of one file for batches of one size; times are in seconds, as in `Timing`."""

    label: str
    threads: Count
    batch_size: Annotated[int, Field(ge=1, lt=2**31)]
    p50: Positive
    p90: Positive
    ratio: Positive
    peak_bytes: Count
    file_bytes: Count
    accuracy: Fraction | None = None


@dataclass(frozen=True)
class Bench:
    """The times of files side by side.

    Args:
        machine: its processor.
        rows: the first file is what the ratios are to.
    """

    machine: str
    rows: tuple[BenchRow, ...]


def write_bench(timings: Sequence[Timing], contenders: Sequence[Contender], path: Path) -> None:
    """Write a benchmark on this machine as JSON, completely or not at all."""
    import torch

    # Each row has its own number of threads.
    machine = device_name(torch.device("cpu")).rpartition(", ")[0]
    known = {contender.file: contender for contender in contenders}
    rows = tuple(
        BenchRow(
            label=known[each.file].label,
            threads=each.threads,
            batch_size=each.batch_size,
            p50=each.p50,
            p90=each.p90,
            ratio=each.ratio,
            peak_bytes=each.peak_bytes,
            file_bytes=count_bytes(each.file),
            accuracy=known[each.file].accuracy,
        )
        for each in timings
    )
    write_sealed(path, asdict(Bench(machine, rows)))


def read_bench(path: Path) -> Bench:
    """Read a benchmark that `write_bench` wrote.

    Raises:
        UserError: the file does not exist, is damaged, or holds something else.
    """
    return validate_table(Bench, read_sealed(path), f"{path}: not a benchmark by `compress bench`")


def saved_bench_table(bench: Bench) -> Table:
    """Return the rows of a benchmark."""
    rows = [
        [
            row.label,
            f"{row.ratio:.2f} ×",
            str(row.threads),
            str(row.batch_size),
            f"{1e3 * row.p50:.3f}",
            f"{1e3 * row.p90:.3f}",
            f"{row.batch_size / row.p50:,.0f}",
            format_bytes(row.file_bytes),
            format_accuracy(row.accuracy),
        ]
        for row in bench.rows
    ]
    columns = [
        "file",
        "speed",
        "threads",
        "batch",
        "p50 ms",
        "p90 ms",
        "images/s",
        "size",
        "test %",
    ]
    return Table(columns, rows, left=1)
