"""How a run looks in a terminal: progress bars and tables; in a pipe, plain lines without control codes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from compress.pipeline.events import RunEvents
from compress.pipeline.run_dir import StageResult

if TYPE_CHECKING:
    from compress.deployment.predict import Prediction
    from compress.reporting.compare import ModelReport

T = TypeVar("T")


class Terminal(RunEvents):
    """Shows a run as it goes."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        if not self.console.is_terminal:
            self.console = Console(
                width=120, no_color=True, highlight=False, file=self.console.file
            )

    def show(self, what: Table | str) -> None:
        """Print a table or a line."""
        self.console.print(what, highlight=False, markup=False, soft_wrap=isinstance(what, str))

    def on_stage_start(self, number: int, total: int, name: str, about: str) -> None:
        self.console.print(
            f"\n[bold]{number}/{total} {name}[/bold]: {escape(about)}",
            highlight=False,
            soft_wrap=True,
        )

    def progress(self, batches: Iterable[T], total: int, label: str) -> Iterable[T]:
        if not self.console.is_terminal:
            yield from batches
            return
        columns = (
            TextColumn("  {task.description:14}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:3.0f}%  {task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(label, total=total, speed="")
            started, images = time.monotonic(), 0
            for batch in batches:
                yield batch
                images += len(getattr(batch, "images", ()))
                rate = images / max(time.monotonic() - started, 1e-9)
                progress.update(task, advance=1, speed=f"{rate:,.0f} images/s" if images else "")

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        now = history[-1]
        spent = now["seconds"]
        left = spent / now["epoch"] * max(epochs - now["epoch"], 0)
        self.console.print(
            f"  epoch {int(now['epoch']):3d}/{math.ceil(epochs)}  loss {now['loss']:.3f}  val {100 * now['val']:5.2f} %"
            f"  {clock(spent)}, {clock(left)} left",
            highlight=False,
        )

    def on_stage_end(self, result: StageResult, before: StageResult | None, table: str) -> None:
        self.show(table)
        changed = f"{_size(result)}, val {100 * result.val:.2f} %"
        if before is not None:
            changed += (
                f" (from {_size(before)}, val {100 * before.val:.2f} %:"
                f" {result.params / before.params - 1:+.1%}, {result.macs / before.macs - 1:+.1%},"
                f" {100 * (result.val - before.val):+.2f} points)"
            )
        self.show(f"{result.name}: {changed}, {clock(result.seconds)}")

    def log(self, text: str) -> None:
        self.show(text)


def clock(seconds: float) -> str:
    """Seconds as ``42 s``, ``3:05 min`` or ``1:02:03 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d} h"


def _size(result: StageResult) -> str:
    at = f" at {result.image_size} px" if result.image_size else ""
    return f"{result.params:,} parameters, {result.macs / 1e6:,.2f} M multiply-adds{at}"


def stages_table(results: Sequence[StageResult]) -> Table:
    """All stages of a run, from the teacher to the final model."""
    table = Table(title="stages", title_justify="left")
    for heading in ("stage", "network"):
        table.add_column(heading)
    for heading in ("images", "parameters", "multiply-adds", "val %", "test %", "epochs", "time"):
        table.add_column(heading, justify="right")
    for result in results:
        table.add_row(
            result.name,
            result.network,
            f"{result.image_size} px" if result.image_size else "-",
            f"{result.params:,}",
            f"{result.macs / 1e6:,.2f} M",
            f"{100 * result.val:.2f}",
            f"{100 * result.test:.2f}" if result.test is not None else "-",
            f"{result.epochs:g}" if result.epochs else "-",
            clock(result.seconds),
        )
    if results:
        table.add_section()
        table.add_row(
            "all", "", "", "", "", "", "", "", clock(sum(result.seconds for result in results))
        )
    return table


def scatter(
    points: Sequence[tuple[float, float, str]],
    counted: str,
    published: Sequence[tuple[float, float]] = (),
    width: int = 72,
    height: int = 14,
) -> str:
    """Points (x, y, name) as text: accuracy in % against what is `counted`, on a logarithmic axis. Points that others
    have `published` are crosses without a name."""
    shown = [
        *((x, y, "×") for x, y in published),
        *((x, y, f"● {name}") for x, y, name in points),
    ]  # ours on top
    across, up = [math.log10(x) for x, _, _ in shown], [y for _, y, _ in shown]
    low, high = min(up), max(up)
    grid = [[" "] * (width + max(len(text) for *_, text in shown)) for _ in range(height)]
    for x, (_, y, text) in zip(across, shown, strict=True):
        column = round((x - min(across)) / (max(across) - min(across) or 1) * (width - 1))
        row = round((high - y) / (high - low or 1) * (height - 1))
        for place, sign in enumerate(text, start=column):
            grid[row][place] = sign
    labels = [f"{high:6.2f} %", *[" " * 8] * (height - 2), f"{low:6.2f} %"]
    lines = [f"{label} │{''.join(row).rstrip()}" for label, row in zip(labels, grid, strict=True)]
    about = f"{counted}, logarithmic{'; × what others report' if published else ''}"
    return "\n".join([*lines, f"{' ' * 9}└{'─' * width}", f"{' ' * 10}{about}"])


def sides_table(sides: Sequence[ModelReport]) -> Table:
    """Weights files side by side."""
    table = Table()
    for heading in ("file", "network"):
        table.add_column(heading, overflow="fold")
    for heading in ("parameters", "multiply-adds", "file size", "one image", "test %"):
        table.add_column(heading, justify="right")
    for side in sides:
        table.add_row(
            str(side.file),
            side.network,
            f"{side.size.params:,}{' not zero' if side.sparse else ''}",
            f"{side.size.macs / 1e6:,.2f} M",
            f"{side.file_bytes / 1e3:,.0f} KB",
            f"{1e3 * side.latency:.2f} ms",
            f"{100 * side.test:.2f}",
        )
    return table


def predictions_table(predictions: Sequence[Prediction]) -> Table:
    """An image a row: its most likely classes and their probabilities."""
    table = Table()
    table.add_column("image", overflow="fold")
    table.add_column("classes, most likely first")
    for prediction in predictions:
        named = ", ".join(f"{name} {probability:.1%}" for name, probability in prediction.top)
        answer = named if prediction.error is None else f"unreadable: {prediction.error}"
        table.add_row(prediction.image, answer)
    return table


def classes_table(classes: Sequence[str], right: Sequence[int], total: Sequence[int]) -> Table:
    """Top-1 accuracy, class by class and overall."""
    table = Table()
    table.add_column("class")
    for heading in ("right", "of", "accuracy"):
        table.add_column(heading, justify="right")
    for name, r, n in zip(classes, right, total, strict=True):
        table.add_row(name, str(r), str(n), f"{r / n:.2%}" if n else "-")
    table.add_section()
    table.add_row("all", str(sum(right)), str(sum(total)), f"{sum(right) / max(sum(total), 1):.2%}")
    return table
