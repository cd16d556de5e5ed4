"""The analysis of a network as tables and as a heat map."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from compress.pruning.sensitivity import CutEffect, GroupSensitivity, Sensitivity
from compress.reporting.plots import save_figure
from compress.reporting.tables import Table
from compress.reporting.units import format_accuracy, format_macs
from compress.runtime.files import write_text
from compress.runtime.sealed_json import write_sealed
from compress.runtime.text import safe_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sensitivity_table(found: Sensitivity) -> Table:
    """Return a row for each group: the accuracy after each cut, and what the largest one saves."""
    rows = [
        [
            describe_group(group),
            f"{group.units:,}",
            *(format_accuracy(cut.accuracy) for cut in group.cuts),
            f"{group.cuts[-1].params:,}",
            format_macs(group.cuts[-1].macs),
            *([] if found.nanoseconds is None else [format_saving(group.cuts[-1])]),
        ]
        for group in found.groups
    ]
    timed = [] if found.nanoseconds is None else ["ms"]
    headings = [f"-{_percent(fraction)}" for fraction in found.fractions]
    title = (
        f"{found.metric} in percent, {format_accuracy(found.accuracy)} before any cut, on"
        f" {found.images};"
        f" the rest is what {headings[-1]} saves of {_describe_cost(found)}"
    )
    columns = ["group", "channels", *headings, "parameters", "multiply-adds", *timed]
    return Table(columns, rows, left=1, title=title)


def cuts_table(found: Sensitivity) -> Table:
    """Return a row for each cut, for other programs; accuracies are 0 to 1."""
    rows = [
        [
            *(group.name, " ".join(group.layers), str(group.units)),
            *(str(cut.fraction), str(cut.removed), str(cut.accuracy)),
            *(str(cut.params), str(cut.macs)),
            "" if cut.nanoseconds is None else str(cut.nanoseconds),
        ]
        for group in found.groups
        for cut in group.cuts
    ]
    columns = ["group", "layers", "units", "fraction", "removed", "accuracy", "params", "macs"]
    return Table([*columns, "nanoseconds"], rows)


def plot_sensitivity(found: Sensitivity) -> Figure:
    """Plot a heat map: a row for each group, a column for each fraction, the points lost in it."""
    from matplotlib.figure import Figure

    lost = [[100 * (found.accuracy - cut.accuracy) for cut in group.cuts] for group in found.groups]
    columns = len(found.fractions)
    figure = Figure(figsize=(3.5 + 0.8 * columns, 1.2 + 0.28 * len(lost)), layout="constrained")
    axes = figure.subplots()
    most = max([1.0, *(points for row in lost for points in row)])
    axes.imshow(lost, cmap="Oranges", vmin=0, vmax=1.4 * most, aspect="auto")
    for y, row in enumerate(lost):
        for x, points in enumerate(row):
            axes.text(x, y, f"{points:.1f}", ha="center", va="center", fontsize=8)
    names = [safe_line(describe_group(group)) for group in found.groups]
    axes.set_yticks(range(len(lost)), names, fontsize=8, parse_math=False)
    axes.set_xticks(range(columns), [f"-{_percent(each)}" for each in found.fractions])
    axes.set_xlabel(f"channels of the group removed; points of validation {found.metric} lost")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def write_analysis(found: Sensitivity, path: Path) -> None:
    """Write an analysis to a file: ``.json``, ``.csv``, or a heat map, ``.svg`` or ``.png``."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        write_sealed(path, asdict(found))
    elif suffix == ".csv":
        write_text(path, cuts_table(found).as_csv())
    else:
        save_figure(plot_sensitivity(found), path)


def describe_group(group: GroupSensitivity) -> str:
    """Return the first layer of a group, and the number of the others.

    Example:
        >>> describe_group(GroupSensitivity("conv1", ("conv1", "layer1.0.conv2"), 16, ()))
        'conv1 + 1'
    """
    others = len(group.layers) - 1
    return (
        f"{group.layers[0] if group.layers else group.name}{f' + {others}' if others > 0 else ''}"
    )


def format_saving(cut: CutEffect) -> str:
    """Format the time that a cut saves, in milliseconds; a dash if it was not measured."""
    return "-" if cut.nanoseconds is None else f"{cut.nanoseconds / 1e6:.3f}"


def _describe_cost(found: Sensitivity) -> str:
    cost = f"{found.params:,} parameters, {format_macs(found.macs)} multiply-adds"
    if found.nanoseconds is None:
        return cost
    return f"{cost}, {found.nanoseconds / 1e6:.3f} ms ({found.runtime})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"
