"""The page of a sweep: its networks in one picture, beside published results."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from compress.experiments.sweep import SweepResult, sweep_table
from compress.pipeline.manifest import MANIFEST, read_results
from compress.pipeline.run import RunResult
from compress.pipeline.run_dir import MODEL
from compress.reporting.pages.facts import Fact, describe_recipe, list_origin
from compress.reporting.pages.page import as_element, write_page
from compress.reporting.pages.run_figures import COSTS, draw_front
from compress.reporting.published import PUBLISHED
from compress.reporting.tables import stages_table
from compress.reporting.units import format_accuracy, format_duration
from compress.runtime.errors import UserError


@dataclass(frozen=True)
class SweepPage:
    """The content of a sweep's page; the template `sweep.html` shows it in this order."""

    about: str
    notes: list[str]
    facts: list[Fact]
    published: bool
    figures: list[Markup]
    table: Markup
    runs: list[tuple[str, Markup]]
    command: str
    origin: list[tuple[str, str]]
    recipe: str


def write_sweep_page(path: Path, out: Path) -> None:
    """Write the page of the sweep in `path` to the file `out`.

    Raises:
        UserError: none of its runs is finished, or one is damaged.
    """
    results, unfinished = read_sweep(path)
    if not results:
        raise UserError(f"{path}: none of its runs is finished yet; run it first")
    manifest, _ = read_results(results[0].run.model.parent)
    data = str(manifest["recipe"].get("data", ""))
    best = max(results, key=lambda each: each.final.test or 0.0)
    seconds = sum(stage.seconds for each in results for stage in each.run.results)
    first = shlex.quote(str(results[0].run.model.parent / MANIFEST))
    budgets = ",".join(each.budget for each in results)
    page = SweepPage(
        about=f"{data}, {len(results)} networks from {results[0].run.results[0].network}",
        notes=[f"Not finished, and left out: {name}." for name in unfinished],
        facts=[
            Fact("most accurate", f"{format_accuracy(best.final.test)} %", f"at {best.budget}"),
            Fact("smallest", f"{results[-1].final.params:,}", "parameters"),
            Fact("all runs took", format_duration(seconds)),
        ],
        published=data in PUBLISHED,
        figures=_draw(results, data),
        table=as_element(sweep_table(results)),
        runs=[(each.budget, as_element(stages_table(each.run.results))) for each in results],
        command=f"compress sweep {first} --budgets {shlex.quote(budgets)} --out runs/again",
        origin=list_origin(manifest),
        recipe=describe_recipe(manifest),
    )
    write_page(out, "sweep.html", title=path.resolve().name, page=page)


def read_sweep(path: Path) -> tuple[list[SweepResult], list[str]]:
    """Return the finished runs of a sweep, the largest first, and the names of the others."""
    found, unfinished = [], []
    for folder in sorted(file.parent for file in path.glob(f"*/{MANIFEST}")):
        manifest, results = read_results(folder)
        if manifest["status"] == "done" and results and (folder / MODEL).is_file():
            found.append(SweepResult(folder.name, RunResult(folder / MODEL, tuple(results))))
        else:
            unfinished.append(folder.name)
    return sorted(found, key=lambda each: -each.final.params), unfinished


def _draw(results: list[SweepResult], data: str) -> list[Markup]:
    figures = []
    for name, cost in COSTS.items():
        points = [
            (float(cost(each.final) or 0), each.final.test or 0.0, each.budget)
            for each in results
            if cost(each.final)
        ]
        if points:
            published = PUBLISHED.get(data, ()) if name == "parameters" else ()
            figures.append(draw_front(points, name, results[-1].final.metric, published))
    return figures
