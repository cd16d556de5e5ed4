"""The page of an experiment: the accuracy of every row, as mean and deviation over its seeds."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from compress.experiments.results import experiment_table, name_metric, read_trials, trials_table
from compress.experiments.trial import Trial, group_by_row
from compress.pipeline.manifest import MANIFEST, read_results
from compress.reporting.pages.facts import describe_recipe, list_origin
from compress.reporting.pages.page import as_element, write_page
from compress.reporting.units import format_mean
from compress.runtime.errors import UserError


@dataclass(frozen=True)
class Row:
    """A row of the experiment.

    Args:
        label: the values of its keys.
        mean: mean ± deviation of its test scores in percent; a dash if there are none.
        seeds: how many have finished.
        spread: beginning and length of one deviation to both sides, and the mean, in percent of the
            scale.
    """

    label: list[str]
    mean: str
    seeds: int
    spread: tuple[str, str, str] | None


@dataclass(frozen=True)
class ExperimentPage:
    """The content of an experiment's page; the template `experiment.html` shows it."""

    about: str
    notes: list[str]
    metric: str
    columns: list[str]
    rows: list[Row]
    low: float
    high: float
    table: Markup
    trials: int
    runs: Markup
    command: str
    origin: list[tuple[str, str]]
    recipe: str


def write_experiment_page(path: Path, out: Path) -> None:
    """Write the page of the experiment in `path` to the file `out`.

    Raises:
        UserError: none of its runs is finished, or one of its files is damaged.
    """
    trials = read_trials(path)
    finished = [trial for trial in trials if trial.results]
    if not finished:
        raise UserError(f"{path}: none of its runs is finished yet; run it first")
    manifest, _ = read_results(finished[0].folder)
    rows, low, high = _make_rows(trials)
    data = manifest["recipe"].get("data", "")
    run = shlex.quote(str(finished[0].folder / MANIFEST))
    page = ExperimentPage(
        about=f"{data}, {len(rows)} rows, {len(finished)} of {len(trials)} runs finished",
        notes=[f"{trial.folder.name} failed: {trial.error}" for trial in trials if trial.error],
        metric=name_metric(trials),
        columns=list(trials[0].label),
        rows=rows,
        low=low,
        high=high,
        table=as_element(experiment_table(trials)),
        trials=len(trials),
        runs=as_element(trials_table(trials)),
        command=f"compress run {run} --out runs/again    # or another run's",
        origin=list_origin(manifest),
        recipe=describe_recipe(manifest),
    )
    write_page(out, "experiment.html", title=path.resolve().name, page=page)


def _make_rows(trials: list[Trial]) -> tuple[list[Row], float, float]:
    """Return the rows, and the ends of their scale in percent."""
    scores = [
        (label, [100 * (trial.results[-1].test or 0.0) for trial in row if trial.results])
        for label, row in group_by_row(trials)
    ]
    ends = [
        end
        for _, found in scores
        if found
        for end in (
            statistics.mean(found) - _deviation(found),
            statistics.mean(found) + _deviation(found),
        )
    ]
    low, high = min(ends), max(ends)
    width = max(high - low, 1e-9)
    rows = [Row(label, *_describe(found, low, width)) for label, found in scores]
    return rows, low, high


def _describe(
    found: Sequence[float], low: float, width: float
) -> tuple[str, int, tuple[str, str, str] | None]:
    if not found:
        return "-", 0, None
    mean, deviation = statistics.mean(found), _deviation(found)
    places = (mean - deviation - low, 2 * deviation, mean - low)
    first, length, middle = (f"{100 * place / width:.2f}" for place in places)
    return format_mean([each / 100 for each in found]), len(found), (first, length, middle)


def _deviation(found: Sequence[float]) -> float:
    return statistics.stdev(found) if len(found) > 1 else 0.0
