"""The terminal: progress bars and lines of a run; in a pipe, plain lines without control codes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from compress.pipeline.events import RunEvents
from compress.pipeline.run_dir import StageResult
from compress.reporting.tables import Table
from compress.reporting.units import format_accuracy, format_duration, format_macs, name_score
from compress.runtime.text import safe_block, safe_line

T = TypeVar("T")

# Columns of a table where there is no terminal that has a width.
WIDTH = 120


class Terminal(RunEvents):
    """Shows the events of a run.

    Args:
        console: where to show them; standard output if left out.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        if not self.console.is_terminal:
            self.console = Console(
                width=WIDTH, no_color=True, highlight=False, file=self.console.file
            )

    def show(self, content: Table | str) -> None:
        """Print a table or a text, without markup."""
        if isinstance(content, Table):
            self.console.print(content.as_rich())
        else:
            self.console.print(safe_block(content), highlight=False, markup=False, soft_wrap=True)

    def fits(self, table: Table) -> bool:
        """Return True if no line of a table is too long for the terminal."""
        wide = self.console.options.update(max_width=10_000)
        return self.console.measure(table.as_rich(), options=wide).maximum <= self.console.width

    def on_stage_start(self, number: int, total: int, name: str, about: str) -> None:
        heading = f"\n[bold]{number}/{total} {name}[/bold]: {escape(safe_line(about))}"
        self.console.print(heading, highlight=False, soft_wrap=True)

    def progress(self, items: Iterable[T], total: int, label: str) -> Iterable[T]:
        if not self.console.is_terminal:
            yield from items
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
            for item in items:
                yield item
                # Batches have images, other items have none.
                images += len(getattr(item, "images", ()))
                rate = images / max(time.monotonic() - started, 1e-9)
                progress.update(task, advance=1, speed=f"{rate:,.0f} images/s" if images else "")

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        last = history[-1]
        left = last["seconds"] / last["epoch"] * max(epochs - last["epoch"], 0)
        self.console.print(
            f"  epoch {int(last['epoch']):3d}/{math.ceil(epochs)}  loss {last['loss']:.3f}"
            f"  val {100 * last['val']:5.2f} %"
            f"  {format_duration(last['seconds'])}, {format_duration(left)} left",
            highlight=False,
        )

    def on_stage_end(self, result: StageResult, before: StageResult | None, table: str) -> None:
        self.show(table)
        text = f"{result.name}: {_describe_result(result)}"
        if before is not None:
            text += (
                f" (from {_describe_result(before)}:"
                f" {result.params / before.params - 1:+.1%}, {result.macs / before.macs - 1:+.1%},"
                f" {100 * (result.val - before.val):+.2f} points)"
            )
        self.show(f"{text}, {format_duration(result.seconds)}")

    def log(self, text: str) -> None:
        self.show(text)


def _describe_result(result: StageResult) -> str:
    size = f" at {result.image_size} px" if result.image_size else ""
    cost = f"{result.params:,} parameters, {format_macs(result.macs)} multiply-adds{size}"
    return f"{cost}, {name_score('val', result.metric)} {format_accuracy(result.val)} %"
