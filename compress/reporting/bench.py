"""Benchmarks of files side by side, with their sizes and accuracies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compress.deployment.bench import Timing
from compress.deployment.formats import count_bytes, find_format, open_exported
from compress.pipeline.run_dir import INT8_MODEL, MANIFEST, MODEL, read_results
from compress.reporting.tables import Table
from compress.reporting.units import format_accuracy, format_bytes
from compress.runtime.errors import UserError

if TYPE_CHECKING:
    from compress.deployment.load_model import Foreign


@dataclass(frozen=True)
class Contender:
    """A file in a benchmark.

    Args:
        file: the file that is timed.
        label: its name in the table.
        accuracy: the task's score on the test split, 0 to 1, if a run has scored it.
    """

    file: Path
    label: str
    accuracy: float | None = None


def list_contenders(paths: Sequence[Path]) -> list[Contender]:
    """List files, and in place of a run directory its networks, from the teacher to the last.

    Raises:
        UserError: a directory is not that of a run, or holds no finished network.
    """
    found: dict[Path, Contender] = {}
    for path in paths:
        prefix = "" if len(paths) == 1 else f"{path.name}: "
        for each in _list_run(path, prefix) if path.is_dir() else [Contender(path, str(path))]:
            # A file that is named twice is timed once.
            found.setdefault(each.file, each)
    return list(found.values())


def _list_run(path: Path, prefix: str) -> list[Contender]:
    """List teacher, student, final network, and the exported files of a run directory."""
    manifest, results = read_results(path)
    if not (path / MODEL).is_file():
        raise UserError(f"{path / MANIFEST}: the run is not finished; resume it first")
    found = []
    for kind, role in (("teach", "teacher"), ("distill", "student")):
        trained = [each for each in results if each.kind == kind]
        # A network that the run was given, and did not train.
        given = manifest["recipe"].get(role, {}).get("weights")
        if not trained and given and Path(given).is_file():
            found.append(Contender(Path(given), prefix + role))
        found += [Contender(path / each.checkpoint, prefix + role, each.test) for each in trained]
    last = [each for each in results if each.kind != "quantize"][-1]
    found.append(Contender(path / MODEL, prefix + MODEL, last.test))
    quantized = next((each for each in results if each.kind == "quantize"), None)
    for file in sorted(path.glob("model*")):
        if find_format(file) is not None:
            stage = quantized if quantized and file.name == INT8_MODEL else last
            known = stage is quantized or _is_export(file, path / MODEL)
            found.append(Contender(file, prefix + file.name, stage.test if known else None))
    return [each for each in found if each.file.is_file()]


def _is_export(file: Path, weights: Path) -> bool:
    """Return True if a file was exported from a weights file as it is now, in float32.

    An earlier network, or one that was quantized by hand, is not as accurate as the one there.
    """
    try:
        description = open_exported(file).description
    except UserError:
        return False
    if description is None or description.int8:
        return False
    checksum = hashlib.sha256(weights.read_bytes()).hexdigest()
    return description.origin.get("weights_sha256") == checksum


def export_contenders(
    contenders: Sequence[Contender],
    formats: Sequence[str],
    folder: Path,
    builders: Sequence[str] = (),
) -> list[Contender]:
    """Export weights files to other formats, which take their places.

    Args:
        folder: where the files are written.
        builders: as for `compress.deployment.bench.bench_files`.

    Raises:
        UserError: as `compress.export`.
    """
    from compress.deployment.export import export
    from compress.deployment.formats import get_format
    from compress.deployment.load_model import choose_builder

    # A format that is not installed is found before any file is written.
    suffixes = {name: get_format(name).suffix for name in formats}
    found: list[Contender] = []
    for number, each in enumerate(contenders):
        if find_format(each.file) is not None:
            found.append(each)
            continue
        for name, suffix in suffixes.items():
            out = folder / f"{number}{suffix}"
            export(each.file, name, out, builder=choose_builder(each.file, builders))
            found.append(replace(each, file=out, label=f"{each.label} as {name}"))
    return found


def score_contender(
    contender: Contender,
    builders: Sequence[str] = (),
    foreign: Foreign | None = None,
    data: str | None = None,
) -> Contender:
    """Score a file on its test split, unless its run has done so.

    Raises:
        UserError: its data is not available.
    """
    from compress.deployment.load_model import choose_builder, load_model
    from compress.reporting.evaluation import measure_test_score

    if contender.accuracy is not None:
        return contender
    builder = choose_builder(contender.file, builders)
    model = load_model(contender.file, builder, foreign)
    return replace(contender, accuracy=measure_test_score(model, data))


def bench_table(timings: Sequence[Timing], contenders: Sequence[Contender]) -> Table:
    """Return timings as a table, ratios first; what is alike for all rows is in its title."""
    known = {contender.file: contender for contender in contenders}
    columns: dict[str, list[str]] = {
        "file": [known[each.file].label for each in timings],
        "speed": [f"{each.ratio:.2f} ×" for each in timings],
        "threads": [str(each.threads) for each in timings],
        "batch": [str(each.batch_size) for each in timings],
        "p50": [f"{1e3 * each.p50:.3f} ms" for each in timings],
        "p90": [f"{1e3 * each.p90:.3f} ms" for each in timings],
        "images/s": [f"{each.images_per_second:,.0f}" for each in timings],
        "memory": [f"{each.peak_bytes / 1e6:,.0f} MB" for each in timings],
        "file size": [format_bytes(count_bytes(each.file)) for each in timings],
        "test %": [format_accuracy(known[each.file].accuracy) for each in timings],
    }
    alike = [name for name in ("threads", "batch") if len(set(columns[name])) == 1]
    title = ", ".join(f"{name} {columns.pop(name)[0]}" for name in alike)
    return Table(list(columns), list(zip(*columns.values(), strict=True)), left=1, title=title)
