"""The figures of a run: what its networks cost, how its accuracy rose, and its losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from markupsafe import Markup

from compress.pipeline.manifest import StageResult
from compress.reporting.pages.curves import Curve
from compress.reporting.pages.svg import INK, LINE, MUTED, SERIES, draw, plain
from compress.reporting.published import Published

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A cost of a stage's network: how it is called, and how it is read.
COSTS: dict[str, Callable[[StageResult], float | None]] = {
    "parameters": lambda result: result.params,
    "multiply-adds": lambda result: result.macs,
    "milliseconds for one image": lambda result: result.milliseconds,
}


def draw_costs(results: Sequence[StageResult]) -> list[Markup]:
    """Return a figure for each cost: accuracy against it, from the teacher to the final network.

    Networks that were just cut, and have not been trained since, are left out.
    """
    shown = [each for each in results if each.kind != "prune" or each is results[-1]]
    metric, figures = results[-1].metric, []
    for name, cost in COSTS.items():
        points = [(cost(each) or 0, _accuracy(each), each.name) for each in shown if cost(each)]
        if points:
            paint = partial(_paint_costs, points=points, cost=name, metric=metric)
            figures.append(draw(paint, f"{metric}, {name}"))
    return figures


def draw_progress(
    results: Sequence[StageResult], curves: Sequence[Curve], wide: bool = True
) -> Markup:
    """Return validation accuracy over the minutes of a run, with its cuts."""

    def paint(axes: Axes) -> None:
        started = 0.0
        for result in results:
            curve = next((each for each in curves if each.stage == result.name), None)
            if result.kind == "prune":
                axes.axvline(started / 60, color=SERIES[1], linewidth=1, linestyle=(0, (2, 2)))
            if curve is not None:
                minutes = [(started + each) / 60 for each in curve.seconds]
                dots = "o" if len(minutes) == 1 else ""
                axes.plot(minutes, [100 * each for each in curve.val], dots, color=SERIES[0])
                axes.lines[-1].set_linestyle("-")
            started += result.seconds
        axes.set(xlabel="minutes", ylabel=f"validation {results[-1].metric}, %")
        axes.set_xlim(0, max(started / 60, 1e-3))

    width, height = (9.4, 2.9) if wide else (4.6, 3)
    return draw(paint, f"validation {results[-1].metric} over the run", width, height)


def draw_losses(curve: Curve) -> Markup:
    """Return the losses of a stage over its epochs; a single one is their sum."""
    from matplotlib.ticker import MaxNLocator

    def paint(axes: Axes) -> None:
        losses = curve.losses if len(curve.losses) > 1 else {"loss": curve.total}
        if len(losses) > 1:
            losses = {"sum": curve.total, **losses}
        colors = [INK, *SERIES] if len(losses) > 1 else [SERIES[0]]
        dots = "o" if len(curve.epochs) == 1 else ""
        for number, (name, values) in enumerate(losses.items()):
            color = colors[number % len(colors)]
            axes.plot(curve.epochs, values, f"{dots}-", color=color, label=plain(name))
        if len(losses) > 1:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)
        axes.set(xlabel="epoch", ylabel="loss")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_ylim(bottom=0)

    return draw(paint, f"losses of {curve.stage}", 3.6, 2.5)


def draw_front(
    points: Sequence[tuple[float, float, str]],
    cost: str,
    metric: str,
    published: Sequence[Published] = (),
) -> Markup:
    """Return the scores of networks against a cost, beside published results.

    Args:
        points: cost, score from 0 to 1, and the name of each network.
        cost, metric: names of the cost and of the score.
        published: results of others, of which only the parameters are known.
    """

    def paint(axes: Axes) -> None:
        for each in published:
            _mark(axes, each.params, 100 * each.accuracy, plain(each.name), MUTED, "x")
        front = find_front(points)
        xs, ys = [x for x, _, _ in front], [100 * y for _, y, _ in front]
        axes.plot(xs, ys, "-", color=SERIES[0], linewidth=1.2)
        for x, y, name in points:
            _mark(axes, x, 100 * y, plain(name), SERIES[0], "o")
        _finish_costs(axes, cost, metric)

    return draw(paint, f"{metric}, {cost}", 4.6, 3.2)


def find_front(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Return the points, by cost, that no other one of at most the same cost exceeds.

    Example:
        >>> find_front([(3, 0.8, "c"), (1, 0.7, "a"), (2, 0.9, "b")])
        [(1, 0.7, 'a'), (2, 0.9, 'b')]
    """
    front: list[tuple[float, float, str]] = []
    for point in sorted(points, key=lambda each: (each[0], -each[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _paint_costs(
    axes: Axes, points: Sequence[tuple[float, float, str]], cost: str, metric: str
) -> None:
    xs, ys = [x for x, _, _ in points], [100 * y for _, y, _ in points]
    axes.plot(xs, ys, "-", color=LINE, linewidth=1.2)
    # Names of all stages would cover one another.
    named = {0, *(i for i, point in enumerate(points) if point[2] == "distill")}
    for number, (x, y) in enumerate(zip(xs[:-1], ys[:-1], strict=True)):
        _mark(axes, x, y, plain(points[number][2]) if number in named else "", MUTED, "o")
    _mark(axes, xs[-1], ys[-1], "final", SERIES[0], "o", beside=True)
    _finish_costs(axes, cost, metric)


def _mark(
    axes: Axes, x: float, y: float, name: str, color: str, marker: str, beside: bool = False
) -> None:
    """Mark a point, with its name above it, or on its left."""
    published = marker == "x"
    axes.plot([x], [y], marker, color=color, markersize=5 if published else 7)
    axes.annotate(
        name,
        (x, y),
        xytext=(-8, -3) if beside else (0, 7),
        textcoords="offset points",
        ha="right" if beside else "center",
        fontsize=7.5 if published else 9,
        color=color if published else INK,
    )


def _finish_costs(axes: Axes, cost: str, metric: str) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=9))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set(xlabel=cost, ylabel=f"{metric}, %")
    axes.margins(x=0.15, y=0.2)


def _accuracy(result: StageResult) -> float:
    return result.val if result.test is None else result.test
