"""The page of a run: what was asked, what came out, and how."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from markupsafe import Markup

from compress.pipeline.manifest import MANIFEST, StageResult, read_results
from compress.pipeline.quality import compare_with_uncut
from compress.pipeline.run_dir import MODEL
from compress.pruning.sensitivity import ANALYSIS, GroupSensitivity, read_sensitivity
from compress.reporting.bench_file import BENCH, read_bench, saved_bench_table
from compress.reporting.pages.curves import read_curves
from compress.reporting.pages.facts import (
    Asked,
    Fact,
    describe_recipe,
    list_asked,
    list_facts,
    list_origin,
    name_network,
)
from compress.reporting.pages.page import as_element, write_page
from compress.reporting.pages.run_figures import draw_costs, draw_front, draw_losses, draw_progress
from compress.reporting.pages.seen_parts import Seen
from compress.reporting.pages.widths import LayerWidths, read_widths
from compress.reporting.sensitivity import describe_group
from compress.reporting.tables import stages_table
from compress.runtime.errors import UserError

T = TypeVar("T")

# Layers whose widths are shown.
MOST_LAYERS = 400


@dataclass(frozen=True)
class SensitivityRows:
    """An analysis as a page shows it: its groups with their names, and the most points lost."""

    fractions: tuple[float, ...]
    accuracy: float
    images: str
    most: float
    timed: bool
    rows: list[tuple[GroupSensitivity, str]]


@dataclass(frozen=True)
class Speed:
    """A benchmark as a page shows it: the machine, accuracy against time, and all rows."""

    machine: str
    figure: Markup | None
    table: Markup


@dataclass(frozen=True)
class RunPage:
    """The content of a run's page; the template `run.html` shows it in this order."""

    about: str
    notes: list[str]
    facts: list[Fact]
    asked: list[Asked]
    compared: str
    score: str
    first: str
    stages: Markup
    costs: list[Markup]
    progress: tuple[Markup, ...]
    losses: list[tuple[str, Markup]]
    width_stages: list[str]
    layers: list[LayerWidths]
    widest: int
    shades: list[str]
    speed: Speed | None
    sensitivity: SensitivityRows | None
    seen: Seen | None
    command: str
    origin: list[tuple[str, str]]
    recipe: str

    @property
    def contents(self) -> list[tuple[str, str]]:
        """The parts of the page that are there: their anchors and names."""
        parts: list[tuple[str, str, object]] = [
            ("stages", "Stages", True),
            ("costs", "Accuracy and cost", True),
            ("speed", "Speed", self.speed),
            ("curves", "Learning", self.progress),
            ("widths", "Widths", self.layers),
            ("sensitivity", "Sensitivity", self.sensitivity),
            ("confusion", "Confusion", self.seen),
            ("worst", "Most wrong", self.seen and self.seen.worst),
            ("different", "Differences", self.seen and self.seen.different),
            ("origin", "Recipe and machine", True),
        ]
        return [(anchor, name) for anchor, name, there in parts if there]


def write_run_page(
    path: Path, out: Path, seen: Seen | None = None, notes: Sequence[str] = ()
) -> None:
    """Write the page of the run in `path` to the file `out`.

    Args:
        seen: what its final network does with the test images, if that was measured.
        notes: lines for the reader.

    Raises:
        UserError: there is no run, it has no finished stage, or one of its files is damaged.
    """
    manifest, results = read_results(path)
    if not results:
        raise UserError(f"{path}: no stage is finished yet; run it first")
    page = _make_page(path, manifest, results, seen, list(notes))
    write_page(out, "run.html", title=path.resolve().name, page=page)


def _make_page(
    path: Path,
    manifest: dict[str, Any],
    results: list[StageResult],
    seen: Seen | None,
    notes: list[str],
) -> RunPage:
    if manifest.get("status") != "done":
        notes.insert(0, "The run is not finished: these are its stages so far.")
    curves = read_curves(path, results)
    try:
        width_stages, layers = read_widths(path, results)
    except UserError as error:
        notes.append(f"Widths are left out: {error}")
        width_stages, layers = [], []
    if len(layers) > MOST_LAYERS:
        notes.append(f"Widths are those of the first {MOST_LAYERS} of {len(layers):,} layers.")
    recipe, model, last = manifest["recipe"], path / MODEL, results[-1]
    progress = [draw_progress(results, curves, wide) for wide in (True, False)] if curves else []
    return RunPage(
        about=", ".join(filter(None, [str(recipe.get("data")), _describe_networks(results)])),
        notes=notes,
        facts=list_facts(
            results, model.stat().st_size if model.is_file() else None, manifest.get("seconds")
        ),
        asked=list_asked(manifest, last),
        compared=compare_with_uncut(results) or "",
        score=f"{'Test' if last.test is not None else 'Validation'} {last.metric}",
        first=name_network(results[0]),
        stages=as_element(stages_table(results, manifest.get("seconds"))),
        costs=draw_costs(results),
        progress=tuple(progress),
        losses=[(curve.stage, draw_losses(curve)) for curve in curves],
        width_stages=width_stages,
        layers=layers[:MOST_LAYERS],
        widest=max([1, *(max(layer.widths) for layer in layers)]),
        shades=_make_shades(len(width_stages)),
        speed=_read_speed(path, last.metric, notes),
        sensitivity=_read_analysis(path, notes),
        seen=seen,
        command=f"compress run {shlex.quote(str(path / MANIFEST))} --out runs/again",
        origin=list_origin(manifest),
        recipe=describe_recipe(manifest),
    )


def _describe_networks(results: Sequence[StageResult]) -> str:
    """Return the names of the networks in their order, as ``resnet50 → resnet18``."""
    return " → ".join(dict.fromkeys(result.network for result in results))


def _make_shades(count: int) -> list[str]:
    """Return a colour for each network, from pale before the first cut to full after the last."""
    steps = [22 + 78 * number / max(count - 1, 1) for number in range(count)]
    return [f"color-mix(in srgb, var(--series-1) {step:.0f}%, var(--paper))" for step in steps]


def _read_speed(path: Path, metric: str, notes: list[str]) -> Speed | None:
    bench = _read_extra(path / BENCH, read_bench, notes)
    if bench is None or not bench.rows:
        return None
    first = bench.rows[0]
    alike = [
        row
        for row in bench.rows
        if (row.threads, row.batch_size) == (first.threads, first.batch_size)
    ]
    threads = f"{first.threads} thread{'' if first.threads == 1 else 's'}"
    unit = f"milliseconds, {threads}, batch of {first.batch_size}"
    points = [(1e3 * row.p50, row.accuracy, row.label) for row in alike if row.accuracy is not None]
    figure = draw_front(points, unit, metric) if len(points) > 1 else None
    return Speed(bench.machine, figure, as_element(saved_bench_table(bench)))


def _read_analysis(path: Path, notes: list[str]) -> SensitivityRows | None:
    found = _read_extra(path / ANALYSIS, read_sensitivity, notes)
    if found is None:
        return None
    lost = [100 * (found.accuracy - cut.accuracy) for group in found.groups for cut in group.cuts]
    return SensitivityRows(
        fractions=found.fractions,
        accuracy=found.accuracy,
        images=found.images,
        most=max([1.0, *lost]),
        timed=found.nanoseconds is not None,
        rows=[(group, describe_group(group)) for group in found.groups],
    )


def _read_extra(file: Path, read: Callable[[Path], T], notes: list[str]) -> T | None:
    """Read a file of another command in a run directory, if it is there; note what is wrong."""
    if not file.is_file():
        return None
    try:
        found = read(file)
    except UserError as error:
        notes.append(f"Left out: {error}")
        return None
    model = file.with_name(MODEL)
    if model.is_file() and file.stat().st_mtime < model.stat().st_mtime:
        notes.append(f"{file.name} is older than {MODEL}: it may be of an earlier network.")
    return found
