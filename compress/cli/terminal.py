"""The terminal: bars and lines of a run; in a pipe, plain lines without control codes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TypeVar

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from compress.cli.terminal_bars import Bars
from compress.cli.terminal_lines import epoch_line, header_lines, is_milestone, stage_lines
from compress.pipeline.events import Callbacks, RunEvents
from compress.pipeline.manifest import StageResult
from compress.reporting.tables import Table
from compress.runtime.text import safe_block, safe_line

if TYPE_CHECKING:
    from compress.pipeline.run_start import RunStart

T = TypeVar("T")

# Columns of a pipe or a file, in which nothing is wrapped.
UNLIMITED = 10_000


class Terminal(RunEvents):
    """Shows the events of a run.

    Use it as a context, which removes the bars at its end.

    Args:
        console: where to show them; standard output if left out.
        verbose: show every epoch, and torchinfo's table of every stage.
    """

    def __init__(self, console: Console | None = None, verbose: bool = False) -> None:
        self.console, self.verbose = console or Console(), verbose
        # What cannot move its cursor gets lines alone, as a pipe does.
        self.moves = self.console.is_terminal and not self.console.is_dumb_terminal
        if not self.moves:
            self.console = Console(
                width=UNLIMITED,
                no_color=True,
                highlight=False,
                force_terminal=False,
                file=self.console.file,
            )
        self.bars = Bars(self.console)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *reason: object) -> None:
        self.bars.stop()

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None in a pipe."""
        return self.console.width if self.moves else None

    def show(self, content: Table | str) -> None:
        """Print a table or a text, without markup."""
        if isinstance(content, Table):
            self.console.print(content.as_rich(self.console.width))
            return
        for line in safe_block(content).split("\n"):
            self._print(Text(line))

    def on_run_start(self, run: RunStart) -> None:
        for word, about in header_lines(run):
            # A terminal does not break a name such as "finetune 2".
            about = about if self.moves else about.replace("\u00a0", " ")
            text = Text(f"{word:10} {safe_line(about)}")
            text.stylize("bold", 0, len(word))
            self._print(text, indent=11)
        if self.moves:
            self.bars.start_run(run.costs, run.seconds, run.spent)

    def fits(self, table: Table) -> bool:
        """Return True if no line of a table is too long for the terminal."""
        wide = self.console.options.update(max_width=10_000)
        return self.console.measure(table.as_rich(), options=wide).maximum <= self.console.width

    def on_stage_start(self, number: int, total: int, name: str, about: str) -> None:
        self.bars.stop()
        self.bars.start_stage(number - 1, total, name)
        heading = Text(f"{number}/{total} {name}", style="bold")
        self._print(Text("\n").append_text(heading).append(f": {safe_line(about)}"))

    def on_train_start(self, epochs: float, steps: int, done: int) -> None:
        self.bars.start_training(steps, done)

    def progress(self, items: Iterable[T], total: int, label: str) -> Iterable[T]:
        if not self.moves:
            yield from items
            return
        self.bars.start_batches(total, label)
        try:
            for item in items:
                yield item
                # Batches have images, other items have none.
                self.bars.advance(len(getattr(item, "images", ())))
        finally:
            self.bars.end_batches()

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        if self.verbose or (not self.moves and is_milestone(epochs, history)):
            self._print(Text(f"  {epoch_line(epochs, history)}"))
        self.bars.note(f"val {100 * history[-1]['val']:.2f} %")

    def on_stage_end(self, result: StageResult, before: StageResult | None, table: str) -> None:
        self.bars.stop()
        if self.verbose:
            self.show(table)
        for line in stage_lines(result, before):
            self._print(Text(f"  {line}"))

    def on_run_end(self, results: Sequence[StageResult], seconds: float) -> None:
        self.bars.stop()
        self._print(Text())

    def log(self, text: str) -> None:
        self.show(text)

    def _print(self, text: Text, indent: int | None = None) -> None:
        """Print a text; a terminal's lines are wrapped at spaces, and indented alike.

        Args:
            indent: of the lines after the first; two more than that of the first if left out.
        """
        if self.moves:
            plain = text.plain
            own = len(plain) - len(plain.lstrip(" "))
            indent = own + 2 if indent is None else indent
            text = _wrap(text, self.console.width, indent)
        # A word that is longer than a line, as a path, is left to the terminal.
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def tracking(terminal: Terminal, tools: Sequence[str]) -> Iterator[RunEvents]:
    """Yield what receives the events of runs: the terminal, and the tools that log them, if any."""
    if not tools:
        yield terminal
        return
    from compress.reporting.loggers.tracking import track

    with ExitStack() as stack:
        trackers = [stack.enter_context(each) for each in track(*tools, warn=terminal.log)]
        yield Callbacks([terminal, *trackers])


def _wrap(text: Text, width: int, indent: int) -> Text:
    """Break the lines of a text at spaces; a word that is longer than a line is not broken."""
    lines = [
        line if cell_len(line) <= width else _fill(line, width, indent)
        for line in text.plain.split("\n")
    ]
    wrapped = Text("\n".join(lines))
    for span in text.spans:
        # Styled words come first in their lines, and stay where they are.
        wrapped.stylize(span.style, span.start, span.end)
    return wrapped


def _fill(line: str, width: int, indent: int) -> str:
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
