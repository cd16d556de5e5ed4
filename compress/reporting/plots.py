"""Plots: pictures of a sweep and of an experiment, and a scatter plot of text for the terminal.

matplotlib is imported by the functions that need it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.pipeline.run_dir import StageResult
from compress.reporting.published import Published
from compress.runtime.files import atomic_write
from compress.runtime.text import safe_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_sweep(results: Sequence[StageResult], published: Sequence[Published] = ()) -> Figure:
    """Plot test scores against parameters and against multiply-adds, on logarithmic axes.

    Args:
        results: of the last stage for each budget, the largest first.
        published: results of others, drawn as crosses; only their parameters are known.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    by_params, by_macs = figure.subplots(1, 2, sharey=True)
    accuracies = [100 * (result.test or 0.0) for result in results]
    _plot_line(by_params, [result.params for result in results], accuracies, "this sweep")
    _plot_line(by_macs, [result.macs for result in results], accuracies)
    if published:
        _plot_published(by_params, published)
    by_params.set(xlabel="parameters", ylabel=f"test {results[-1].metric}, %")
    by_macs.set(xlabel="multiply-adds for one image")
    by_params.legend(loc="lower right")
    return figure


def plot_rows(
    columns: Sequence[str],
    rows: Sequence[tuple[Sequence[str], Sequence[float]]],
    metric: str = "accuracy",
) -> Figure:
    """Plot a point for each row of an experiment: mean test score and its sample deviation.

    If there are several columns, colors stand for the last one and places on the axis for the
    others.

    Args:
        columns: names of the keys that tell the rows apart.
        rows: the values of these keys, and the scores, 0 to 1, of the seeds that are finished.
        metric: name of the score.
    """
    from matplotlib.figure import Figure

    on_axis = len(columns) - 1 if len(columns) > 1 else len(columns)
    places = list(dict.fromkeys(", ".join(keys[:on_axis]) for keys, _ in rows))
    colors = list(dict.fromkeys(" ".join(keys[on_axis:]) for keys, _ in rows))
    figure = Figure(figsize=(8, 1.5 + 0.25 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for keys, accuracies in rows:
        percent = [100 * accuracy for accuracy in accuracies]
        color = colors.index(" ".join(keys[on_axis:]))
        # Side by side, so that error bars do not hide one another.
        y = places.index(", ".join(keys[:on_axis])) + 0.5 * ((color + 0.5) / len(colors) - 0.5)
        axes.errorbar(
            [statistics.mean(percent)] if percent else [],
            [y] if percent else [],
            xerr=statistics.stdev(percent) if len(percent) > 1 else None,
            fmt="o",
            capsize=3,
            color=f"C{color}",
        )
    if len(columns) > 1:
        for number, value in enumerate(colors):
            label = safe_line(f"{columns[-1]} {value}")
            axes.plot([], [], "o", color=f"C{number}", label=label)
        for text in figure.legend(loc="outside right upper").get_texts():
            text.set_parse_math(False)
    axes.set_yticks(range(len(places)), map(safe_line, places), parse_math=False)
    axes.set(
        xlabel=f"test {metric}, %, mean ± sample deviation over seeds",
        ylabel=", ".join(columns[:on_axis]),
    )
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG, or as an SVG if `path` says so, completely or not at all."""
    kind = "svg" if path.suffix.lower() == ".svg" else "png"
    with atomic_write(path) as stream:
        figure.savefig(stream, format=kind, dpi=120)


def scatter_text(
    points: Sequence[tuple[float, float, str]],
    x_label: str,
    published: Sequence[Published] = (),
    width: int = 72,
    height: int = 14,
) -> str:
    """Return a scatter plot of text, with a logarithmic x axis.

    Args:
        points: x, accuracy from 0 to 1, and the name written beside the point.
        x_label: name of the x axis.
        published: results of others, drawn as crosses without a name.
        width, height: of the plot area, in characters.
    """
    # Later ones cover earlier ones: this sweep is on top.
    crosses = [(each.params, 100 * each.accuracy, "×") for each in published]
    marks = [*crosses, *((x, 100 * y, f"● {name}") for x, y, name in points)]
    xs, ys = [math.log10(x) for x, _, _ in marks], [y for _, y, _ in marks]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    grid = [[" "] * (width + max(len(text) for *_, text in marks)) for _ in range(height)]
    for x, y, (*_, text) in zip(xs, ys, marks, strict=True):
        column = round((x - left) / (right - left or 1) * (width - 1))
        row = round((high - y) / (high - low or 1) * (height - 1))
        grid[row][column : column + len(text)] = text
    labels = [f"{high:6.2f} %", *[" " * 8] * (height - 2), f"{low:6.2f} %"]
    lines = [f"{label} │{''.join(row).rstrip()}" for label, row in zip(labels, grid, strict=True)]
    about = f"{x_label}, logarithmic{'; × published results' if published else ''}"
    return "\n".join([*lines, f"{' ' * 9}└{'─' * width}", f"{' ' * 10}{about}"])


def _plot_line(
    axes: Axes, costs: Sequence[int], accuracies: Sequence[float], label: str | None = None
) -> None:
    """Plot the networks of a sweep as a line, with the accuracy beside each point."""
    axes.plot(costs, accuracies, "o-", color="tab:blue", label=label)
    for cost, accuracy, smaller in zip(costs, accuracies, [*accuracies[1:], 0.0], strict=True):
        # On the side on which the line to the next smaller network does not run.
        offset, side = ((-5, 4), "right") if accuracy >= smaller else ((5, 4), "left")
        text = f"{accuracy:.1f}"
        axes.annotate(text, (cost, accuracy), offset, textcoords="offset points", ha=side)
    axes.set_xscale("log")
    # Room for the names of points at the edges.
    axes.margins(x=0.15, y=0.1)
    axes.grid(alpha=0.3)


def _plot_published(axes: Axes, published: Sequence[Published]) -> None:
    accuracies = [100 * each.accuracy for each in published]
    params = [each.params for each in published]
    axes.plot(params, accuracies, "x", color="tab:gray", label="published")
    for each, accuracy in zip(published, accuracies, strict=True):
        axes.annotate(
            each.name,
            (each.params, accuracy),
            (0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color="gray",
        )
