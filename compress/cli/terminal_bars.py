"""Progress bars of a run: one for the stage, and one for all of it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from compress.reporting.units import format_duration

# Columns of a terminal that has room for long bars, for short ones, and for speeds.
LONG, SHORT, SPEEDS = 100, 76, 60


class Bars:
    """Bars at the bottom of a terminal, from the first batch of a stage to its end.

    Lines that are printed meanwhile appear above them.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._stage = self._all = TaskID(0)
        self._name, self._label, self._note = "", "", ""
        self._costs: Sequence[float] = ()
        self._expected: float | None = None
        self._run_started = time.monotonic()
        # Of the training, or of another loop: steps, those that are done, and those done before.
        self._index, self._total = 0, 0
        self._steps, self._done, self._before = 0, 0, 0
        self._trains = False
        self._started = self._epoch_started = self._run_started
        self._images = 0

    def start_run(self, costs: Sequence[float], expected: float | None, spent: float) -> None:
        """Begin a run.

        Args:
            costs: relative durations of its stages.
            expected: seconds that it takes in all, if they are known.
            spent: seconds that it has taken already.
        """
        self._costs, self._expected = costs, expected
        self._run_started = time.monotonic() - spent

    def start_stage(self, index: int, total: int, name: str) -> None:
        """Begin the stage at an index, counted from 0, of so many with the final test."""
        self._index, self._total, self._name = index, total, name

    def start_training(self, steps: int, done: int) -> None:
        """Begin a training of so many steps, some of which may be done already."""
        self._start_loop(steps, done)
        self._trains = True

    def start_batches(self, total: int, label: str) -> None:
        """Begin an epoch, or another loop over `total` items."""
        if not self._trains:
            self._start_loop(total, 0)
        self._label, self._epoch_started, self._images = label, time.monotonic(), 0
        begins = self._progress is None
        if begins:
            self._open()
        self._show()
        if begins and self._progress is not None:
            # Once there is something to show.
            self._progress.start()

    def advance(self, images: int) -> None:
        """Count an item of `images` images; 0 if it is no batch."""
        self._done += 1
        self._images += images
        self._show()

    def end_batches(self) -> None:
        """Remove the bars after a loop that trains nothing."""
        if not self._trains:
            self.stop()

    def note(self, text: str) -> None:
        """Show a text beside the stage's bar, if there is room for it."""
        self._note = text if self._console.width >= LONG else ""

    def stop(self) -> None:
        """Remove the bars."""
        if self._progress is not None:
            self._progress.stop()
        self._progress, self._trains, self._note = None, False, ""

    def _start_loop(self, steps: int, done: int) -> None:
        self._steps, self._done, self._before = max(steps, 1), done, done
        self._started = time.monotonic()

    def _open(self) -> None:
        width = self._console.width
        whole = Column(no_wrap=True, overflow="ellipsis")
        columns = [
            TextColumn("  {task.description:10}", markup=False, table_column=whole),
            *([BarColumn(bar_width=30 if width >= LONG else 12)] if width >= SHORT else []),
            TextColumn("{task.percentage:3.0f}%"),
            TextColumn("{task.fields[info]}", markup=False, table_column=whole),
            TextColumn("{task.fields[left]}", markup=False, table_column=whole),
        ]
        progress = Progress(*columns, console=self._console, transient=True, refresh_per_second=4)
        self._stage = progress.add_task(self._name, total=1.0, info="", left="")
        self._all = progress.add_task("in all", total=1.0, info="", left="", visible=False)
        self._progress = progress

    def _show(self) -> None:
        if self._progress is None:
            return
        now = time.monotonic()
        info = [self._label, *([self._note] if self._note else [])]
        if self._images and self._console.width >= SPEEDS:
            info.append(f"{self._images / max(now - self._epoch_started, 1e-9):,.0f} images/s")
        done = min(self._done / self._steps, 1.0)
        lately = (self._done - self._before) / self._steps
        left = _describe_left(now - self._started, lately, 1 - done)
        self._progress.update(self._stage, completed=done, info="  ".join(info), left=left)
        self._show_all(done, now - self._run_started)

    def _show_all(self, done: float, elapsed: float) -> None:
        """Show how much of the run is done, if that can be told."""
        if self._progress is None or self._index >= len(self._costs) or not sum(self._costs):
            return
        if self._expected is None:
            before = sum(self._costs[: self._index])
            total = (before + done * self._costs[self._index]) / sum(self._costs)
        else:
            total = min(elapsed / self._expected, 1.0)
        info = f"stage {self._index + 1}/{self._total}"
        left = _describe_left(elapsed, total, 1 - total)
        self._progress.update(self._all, completed=total, info=info, left=left, visible=True)


def _describe_left(elapsed: float, done: float, rest: float) -> str:
    """Return the time that a rest takes, if `done` took the time that has elapsed."""
    return f"{format_duration(elapsed / done * rest)} left" if done > 0 else ""
