"""What came of an experiment: its table, as Markdown and as CSV, and its picture."""

from __future__ import annotations

import csv
import io
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.reporting.tables import as_markdown
from compress.runtime.files import atomic_write, write_text

if TYPE_CHECKING:
    from compress.experiments.experiment import Cell

Table = tuple[list[str], list[list[str]]]  # headings, and the cells of each row


def table(cells: Sequence[Cell]) -> Table:
    """A row for every combination: its keys, what the last stage's network costs, and its accuracies in %, mean ±
    sample deviation over the seeds that are done. Costs and times are means; the teacher's time is left out."""
    headings = [*_keys(cells), "parameters", "multiply-adds", "val %", "test %", "seeds", "seconds"]
    rows = []
    for keys, group in _rows(cells):
        done = [cell for cell in group if cell.results]
        last = [cell.results[-1] for cell in done]
        counted = f"{len(done)}" if len(done) == len(group) else f"{len(done)} of {len(group)}"
        if done:
            params = f"{statistics.mean(r.params for r in last):,.0f}"
            macs = f"{statistics.mean(r.macs for r in last) / 1e6:,.2f} M"
            accuracies = (_spread([r.val for r in last]), _spread([r.test or 0.0 for r in last]))
            rows.append(
                [
                    *keys,
                    params,
                    macs,
                    *accuracies,
                    counted,
                    f"{statistics.mean(c.seconds for c in done):,.0f}",
                ]
            )
        else:
            rows.append([*keys, "-", "-", "-", "-", counted, "-"])
    return headings, rows


def markdown(cells: Sequence[Cell]) -> str:
    """The table, what failed, and how to run a cell once more."""
    text = as_markdown(*table(cells), left=len(_keys(cells)))
    text += "".join(f"\n{cell.folder.name} failed: {cell.error}\n" for cell in cells if cell.error)
    again = f"compress run {shlex.quote(str(cells[0].folder / 'run.json'))} --out DIRECTORY"
    return (
        f"{text}\nEvery run can be done again from what it left (table.csv says where): `{again}`\n"
    )


def as_csv(cells: Sequence[Cell]) -> str:
    """A line for every run: its keys, what came of it (accuracies 0 to 1), and where it is."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    counts = ("seed", "parameters", "multiply-adds", "val", "test", "seconds")
    lines.writerow((*_keys(cells), *counts, "directory", "error"))
    for cell in cells:
        if cell.results:
            last = cell.results[-1]
            came: tuple[object, ...] = (
                last.params,
                last.macs,
                last.val,
                last.test,
                round(cell.seconds, 1),
            )
        else:
            came = ("",) * 5
        lines.writerow(
            (*cell.keys.values(), cell.recipe.seed, *came, cell.folder, cell.error or "")
        )
    return text.getvalue()


def write_tables(cells: Sequence[Cell], folder: Path) -> None:
    """Put `table.md` and `table.csv` into `folder`."""
    write_text(folder / "table.md", markdown(cells))
    write_text(folder / "table.csv", as_csv(cells))


def write_picture(cells: Sequence[Cell], folder: Path) -> None:
    """Put `table.png` into `folder`: a point for each row, mean test accuracy and its sample deviation.

    Of several keys, the last is told by colour, the others along the axis.
    """
    from matplotlib.figure import Figure

    names, rows = _keys(cells), _rows(cells)
    along = len(names) - 1 if len(names) > 1 else len(names)
    places = {
        place: y
        for y, place in enumerate(dict.fromkeys(", ".join(keys[:along]) for keys, _ in rows))
    }
    colours = list(dict.fromkeys(" ".join(keys[along:]) for keys, _ in rows))
    figure = Figure(figsize=(8, 1.5 + 0.25 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for keys, group in rows:
        tests = [100 * (cell.results[-1].test or 0.0) for cell in group if cell.results]
        colour = colours.index(" ".join(keys[along:]))
        aside = 0.5 * (
            (colour + 0.5) / len(colours) - 0.5
        )  # so that error bars do not hide one another
        axes.errorbar(
            [statistics.mean(tests)] if tests else [],
            [places[", ".join(keys[:along])] + aside] if tests else [],
            xerr=statistics.stdev(tests) if tests[1:] else None,
            fmt="o",
            capsize=3,
            color=f"C{colour}",
        )
    for number, colour_of in enumerate(colours if len(names) > 1 else []):
        axes.plot([], [], "o", color=f"C{number}", label=f"{names[-1]} {colour_of}")
    axes.set_yticks(list(places.values()), list(places))
    axes.set(
        xlabel="test accuracy, %, mean ± sample deviation over seeds",
        ylabel=", ".join(names[:along]),
    )
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    if len(names) > 1:
        figure.legend(loc="outside right upper")
    with atomic_write(folder / "table.png") as stream:
        figure.savefig(stream, format="png", dpi=120)


def _keys(cells: Sequence[Cell]) -> list[str]:
    return list(cells[0].keys)


def _rows(cells: Sequence[Cell]) -> list[tuple[list[str], list[Cell]]]:
    """The cells of each row, which differ in their seeds alone."""
    rows: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        rows.setdefault(tuple(cell.keys.values()), []).append(cell)
    return [(list(keys), group) for keys, group in rows.items()]


def _spread(shares: Sequence[float]) -> str:
    """Mean ± sample deviation (n - 1), in %; the mean alone of a single one."""
    percent = [100 * share for share in shares]
    mean = f"{statistics.mean(percent):.2f}"
    return f"{mean} ± {statistics.stdev(percent):.2f}" if percent[1:] else mean
