"""Results of an experiment: tables as Markdown and CSV, and a picture. Does not import torch."""

from __future__ import annotations

import csv
import io
import shlex
import statistics
from pathlib import Path

from compress.experiments.ledger import LEDGER, read_ledger
from compress.experiments.trial import Trial, group_by_row
from compress.pipeline.run_dir import MANIFEST, StageResult, read_results
from compress.recipe.load import recipe_from_dict
from compress.reporting.plots import plot_rows, save_figure
from compress.reporting.tables import Table
from compress.reporting.units import format_macs, format_mean, name_score
from compress.runtime.errors import UserError
from compress.runtime.files import write_text
from compress.runtime.plain_files import read_text
from compress.runtime.text import plain_cell

PLOT = "table.png"


def experiment_table(trials: list[Trial]) -> Table:
    """Return a row for every combination of keys.

    Each has the cost of the last stage's network, and its accuracies in percent as mean ± sample
    deviation over the finished seeds, that of balanced accuracy on the test split included where
    some classes are uneven, with a dash where they are not. Costs and seconds are means; the
    teacher's time is left out.
    """
    keys = list(trials[0].label)
    scores = [f"{name_score(split, name_metric(trials))} %" for split in ("val", "test")]
    uneven = _are_uneven(trials)
    scores += ["balanced %"] if uneven else []
    headings = [*keys, "parameters", "multiply-adds", *scores, "seeds", "seconds"]
    rows = [[*values, *_summarize_row(row, uneven)] for values, row in group_by_row(trials)]
    return Table(headings, rows, left=len(keys))


def trials_table(trials: list[Trial]) -> Table:
    """Return a table for other programs, with a row for every trial.

    A row has the trial's keys, its results (accuracies 0 to 1), and its directory.
    """
    columns = ["seed", "parameters", "multiply-adds", "val", "test", "seconds"]
    uneven = _are_uneven(trials)
    columns += ["balanced"] if uneven else []
    rows = []
    for trial in trials:
        results: list[object] = [""] * (6 if uneven else 5)
        if trial.results:
            last = trial.results[-1]
            results = [last.params, last.macs, last.val, last.test, round(trial.seconds, 1)]
            results += [last.test_balanced] if uneven else []
        cells = (*trial.label.values(), trial.recipe.seed, *results, trial.folder)
        rows.append(["" if cell is None else str(cell) for cell in (*cells, trial.error)])
    return Table([*trials[0].label, *columns, "directory", "error"], rows)


def write_tables(trials: list[Trial], folder: Path) -> None:
    """Write `table.md` and `table.csv` to `folder`."""
    text = experiment_table(trials).as_markdown()
    for trial in trials:
        text += f"\n{trial.folder.name} failed: {trial.error}\n" if trial.error else ""
    command = f"compress run {shlex.quote(str(trials[0].folder / 'run.json'))} --out DIRECTORY"
    text += f"\nEvery run can be repeated from its run.json (directories: table.csv): `{command}`\n"
    write_text(folder / "table.md", text)
    write_text(folder / "table.csv", trials_table(trials).as_csv())


def read_trials(folder: Path) -> list[Trial]:
    """Return the trials of the experiment in `folder`, as its table and its runs have them.

    Raises:
        UserError: there is no table yet, or a file is damaged.
    """
    ledger, trials = read_ledger(folder), []
    rows = _read_rows(folder) if ledger.rows is None else ledger.rows
    for name, label in rows.items():
        if (entry := ledger.trials.get(name)) is None:
            continue
        recipe = recipe_from_dict(entry.recipe, f"{folder / LEDGER}: {name}")
        results, damage = read_finished(folder / name)
        error = None if results else damage or entry.error
        trials.append(Trial(label, recipe, folder / name, results, error))
    return trials


def _read_rows(folder: Path) -> dict[str, dict[str, str]]:
    """Return the labels of trials by their directories, from the table of an earlier release."""
    file = folder / "table.csv"
    if not file.is_file():
        raise UserError(f"{folder}: none of its runs is finished yet; run the experiment first")
    header, *rows = csv.reader(io.StringIO(read_text(file), newline=""))
    if "seed" not in header or "directory" not in header:
        raise UserError(f"{file}: damaged, has no columns seed and directory")
    keys = header[: header.index("seed")]
    tables = [dict(zip(header, map(plain_cell, row), strict=False)) for row in rows]
    return {
        Path(cells.get("directory", "")).name: {key: cells.get(key, "") for key in keys}
        for cells in tables
    }


def read_finished(folder: Path) -> tuple[tuple[StageResult, ...], str | None]:
    """Return the results of a finished run, none if it is not finished; and what is damaged."""
    if not (folder / MANIFEST).is_file():
        return (), None
    try:
        manifest, results = read_results(folder)
    except UserError as error:
        return (), str(error)
    return tuple(results) if manifest.get("status") == "done" else (), None


def write_plot(trials: list[Trial], folder: Path) -> None:
    """Write `table.png` to `folder`: the test accuracy of every row."""
    rows = [
        (values, [trial.results[-1].test or 0.0 for trial in row if trial.results])
        for values, row in group_by_row(trials)
    ]
    figure = plot_rows(list(trials[0].label), rows, name_metric(trials))
    save_figure(figure, folder / PLOT)


def name_metric(trials: list[Trial]) -> str:
    """Return the name of the score of the finished trials; "score" if they have several."""
    names = {each.results[-1].metric for each in trials if each.results} or {"accuracy"}
    return names.pop() if len(names) == 1 else "score"


def _are_uneven(trials: list[Trial]) -> bool:
    """Return True if trials were also scored by balanced accuracy."""
    return any(trial.results and trial.results[-1].test_balanced is not None for trial in trials)


def _summarize_row(trials: list[Trial], uneven: bool) -> list[str]:
    """Return the cells of one row after its keys."""
    finished = [trial for trial in trials if trial.results]
    of_all = "" if len(finished) == len(trials) else f" of {len(trials)}"
    seeds = f"{len(finished)}{of_all}"
    if not finished:
        return [*["-"] * (5 if uneven else 4), seeds, "-"]
    last = [trial.results[-1] for trial in finished]
    return [
        f"{statistics.mean(result.params for result in last):,.0f}",
        format_macs(statistics.mean(result.macs for result in last)),
        format_mean([result.val for result in last]),
        format_mean([result.test for result in last]),
        *([format_mean([result.test_balanced for result in last])] if uneven else []),
        seeds,
        f"{statistics.mean(trial.seconds for trial in finished):,.0f}",
    ]
