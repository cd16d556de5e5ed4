"""Tables: one type for the terminal, Markdown, CSV and HTML, and the tables of this package."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from compress.pipeline.run_dir import StageResult
from compress.reporting.units import (
    format_accuracy,
    format_bytes,
    format_duration,
    format_macs,
    name_score,
)
from compress.runtime.text import safe_cell, safe_line

if TYPE_CHECKING:
    from torch import Tensor

    from compress.deployment.predict import Prediction
    from compress.reporting.compare import ModelReport
    from compress.training.task import Task


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        headings: of the columns.
        rows: a cell for every heading.
        left: number of columns, from the left, that are aligned left; the others are aligned right.
        title: a line above the table.
        footer: a last row that is set apart, as for totals.
        drop: headings of the columns that a narrow terminal leaves out, the first one first.
        stack: headings of columns that a still narrower one shows in one column, below each other.

    Example:
        >>> print(Table(["budget", "test %"], [["100k", "94.89"]], left=1).as_markdown())
        | budget | test % |
        | -- | --: |
        | 100k | 94.89 |
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 0
    title: str | None = None
    footer: Sequence[str] | None = None
    drop: Sequence[str] = ()
    stack: Sequence[Sequence[str]] = ()

    def as_rich(self, width: int | None = None) -> rich.table.Table:
        """Return the table for a `rich.console.Console`.

        Cells are shown without markup; what would control the terminal is escaped.

        Args:
            width: columns of the terminal; left to rich if left out. The table has as many columns
                as fit without breaking a cell. If none of its forms fits, text is wrapped at
                spaces; if that does not do either, each row becomes a block of lines, one a cell.
        """
        everything, ruler = next(self._layouts()), Console(width=100_000)
        if width is None:
            return self._lay_out(everything)
        for columns in self._layouts():
            table = self._lay_out(columns, wraps="never")
            if ruler.measure(table).maximum <= width:
                return table
        table = self._lay_out(everything, wraps="at spaces")
        return table if ruler.measure(table).minimum <= width else self._as_blocks()

    def _layouts(self) -> Iterator[list[list[int]]]:
        """Yield the forms of the table, widest first: indices of cells for each column."""
        places = {heading: index for index, heading in enumerate(self.headings)}
        dropped = [places[heading] for heading in self.drop if heading in places]
        for count in range(len(dropped) + 1):
            yield [[index] for index in places.values() if index not in dropped[:count]]
        stacks = [[places[each] for each in group if each in places] for group in self.stack]
        if not any(stacks):
            return
        stacks = [group for group in stacks if group]
        alone = set(places.values()) - set(dropped) - {index for each in stacks for index in each}
        for left_out in ((), dropped):
            kept = [[index for index in group if index not in left_out] for group in stacks]
            yield sorted([*filter(None, kept), *([index] for index in alone)])
        # Of each column that is stacked, the first cell alone.
        yield sorted([group[0]] for group in stacks[:-1])

    def _lay_out(
        self,
        columns: list[list[int]],
        wraps: Literal["never", "at spaces", "anywhere"] = "anywhere",
    ) -> rich.table.Table:
        table = rich.table.Table(title=self._rich_title(), title_justify="left")
        tall = any(len(indices) > 1 for indices in columns)
        for indices in columns:
            numeric = self._alignment(indices[0]) == "right"
            table.add_column(
                self._cell(self.headings, indices),
                justify=self._alignment(indices[0]),
                overflow="fold",
                no_wrap=wraps == "never" or (wraps == "at spaces" and numeric),
                min_width=self._longest_word(indices) if wraps == "at spaces" else None,
            )
        for number, row in enumerate(self.rows):
            if tall and number:
                table.add_section()
            table.add_row(*(self._cell(row, indices) for indices in columns))
        if self.footer:
            table.add_section()
            table.add_row(*(self._cell(self.footer, indices) for indices in columns))
        return table

    def _rich_title(self) -> Text | None:
        # A title may name data, and rich reads markup in a string.
        return Text(safe_line(self.title), style="table.title") if self.title else None

    def _cell(self, row: Sequence[str], indices: list[int]) -> Text:
        return Text("\n".join(safe_line(row[index]) for index in indices))

    def _longest_word(self, indices: list[int]) -> int:
        """Return the width that a column needs, so that no word of it is broken."""
        cells = [row[index] for row in (self.headings, *self.rows) for index in indices]
        return max(
            (cell_len(word) for cell in cells for word in safe_line(cell).split()), default=1
        )

    def _as_blocks(self) -> rich.table.Table:
        """Return a table of two columns: headings and cells, row by row."""
        table = rich.table.Table(title=self._rich_title(), title_justify="left", show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for row in (*self.rows, *([self.footer] if self.footer else [])):
            table.add_section()
            for heading, cell in zip(self.headings, row, strict=True):
                if cell:
                    table.add_row(Text(safe_line(heading)), Text(safe_line(cell)))
        return table

    def as_markdown(self) -> str:
        """Return the table in Markdown, one line a row."""
        title = f"**{self.title}**\n\n" if self.title else ""
        rule = ["--" if index < self.left else "--:" for index in range(len(self.headings))]
        footer = [self.footer] if self.footer else []
        return title + "".join(map(_markdown_row, [self.headings, rule, *self.rows, *footer]))

    def as_csv(self) -> str:
        """Return headings and rows as CSV (RFC 4180), without formulas (see `safe_cell`).

        Title and footer are left out, because they are not data.
        """
        text = io.StringIO(newline="")
        rows = ([safe_cell(cell) for cell in row] for row in (self.headings, *self.rows))
        csv.writer(text).writerows(rows)
        return text.getvalue()

    def as_html(self) -> str:
        """Return the table as an HTML element."""
        title = f"<caption>{html.escape(self.title)}</caption>\n" if self.title else ""
        body = "".join(self._html_row("td", row) for row in self.rows)
        foot = f"<tfoot>\n{self._html_row('td', self.footer)}</tfoot>\n" if self.footer else ""
        head = self._html_row("th", self.headings)
        return f"<table>\n{title}<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n{foot}</table>\n"

    def _alignment(self, column: int) -> Literal["left", "right"]:
        return "left" if column < self.left else "right"

    def _html_row(self, tag: str, cells: Sequence[str]) -> str:
        content = "".join(
            f'<{tag} style="text-align: {self._alignment(column)}">{html.escape(cell)}</{tag}>'
            for column, cell in enumerate(cells)
        )
        return f"<tr>{content}</tr>\n"


def _markdown_row(cells: Sequence[str]) -> str:
    # A pipe would end the cell.
    escaped = [safe_line(cell).replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(escaped)} |\n"


# Two lines a stage, for narrow terminals.
STACKED_STAGES = (
    ("stage", "network"),
    ("parameters", "multiply-adds", "ms"),
    ("test %", "val %", "balanced %"),
    ("time", "epochs"),
)


def stages_table(results: Sequence[StageResult], seconds: float | None = None) -> Table:
    """Return the stages of a run, from the teacher to the final model.

    Args:
        seconds: wall time of the run, for the total; the sum of the stages if left out.
    """
    timed = any(result.milliseconds is not None for result in results)
    uneven = any(result.test_balanced is not None for result in results)
    metric = results[-1].metric if results else "accuracy"
    rows = [
        [
            result.name,
            result.network,
            f"{result.image_size} px" if result.image_size else "-",
            f"{result.params:,}",
            format_macs(result.macs),
            *([_format_milliseconds(result.milliseconds)] if timed else []),
            format_accuracy(result.val),
            format_accuracy(result.test),
            *([format_accuracy(result.test_balanced)] if uneven else []),
            f"{result.epochs:.4g}" if result.epochs else "-",
            format_duration(result.seconds),
        ]
        for result in results
    ]
    balanced = ["balanced %"] if uneven else []
    costs = [
        "images",
        "parameters",
        "multiply-adds",
        *(["ms"] if timed else []),
        *(f"{name_score(split, metric)} %" for split in ("val", "test")),
        *balanced,
        "epochs",
        "time",
    ]
    total = format_duration(seconds or sum(result.seconds for result in results))
    footer = ["all", *[""] * len(costs), total] if results else None
    return Table(
        ["stage", "network", *costs],
        rows,
        left=2,
        title="stages",
        footer=footer,
        drop=("images", "epochs", "network"),
        stack=STACKED_STAGES,
    )


def _format_milliseconds(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.3f}"


def compare_table(reports: Iterable[ModelReport]) -> Table:
    """Return weights files side by side."""
    rows = [
        [
            str(report.file),
            report.network,
            *_cost_cells(report),
            format_bytes(report.file_bytes),
            f"{1e3 * report.latency:.2f} ms",
            format_accuracy(report.test),
        ]
        for report in reports
    ]
    costs = ("parameters", "multiply-adds", "file size", "one image", "test %")
    return Table(["file", "network", *costs], rows, left=2)


def _cost_cells(report: ModelReport) -> tuple[str, str]:
    """Return the parameters and multiply-adds; a file of another program does not say them."""
    if not report.cost.params:
        return "-", "-"
    params = f"{report.cost.params:,}{' not zero' if report.sparse else ''}"
    return params, format_macs(report.cost.macs)


def predictions_table(predictions: Iterable[Prediction]) -> Table:
    """Return the most likely classes of each image, with their probabilities; or the largest parts.

    If images have labels, these stand beside them, with a mark if the most likely class is another.
    """
    predictions = list(predictions)
    labelled = any(prediction.label is not None for prediction in predictions)
    rows = []
    for prediction in predictions:
        classes = ", ".join(f"{name} {probability:.1%}" for name, probability in prediction.top)
        shown = classes if prediction.error is None else f"unreadable: {prediction.error}"
        mark = " ✗" if prediction.correct is False else ""
        label = [f"{prediction.label or '-'}{mark}"] if labelled else []
        rows.append([prediction.image, *label, shown])
    label = ["label"] if labelled else []
    parts = any(prediction.mask is not None for prediction in predictions)
    header = ["image", *label, "classes, largest first" if parts else "classes, most likely first"]
    return Table(header, rows, left=len(header))


def classes_table(task: Task, classes: Sequence[str], counts: Tensor) -> Table:
    """Return the score of each class and of all images: the accuracy, or the IoU of masks.

    Args:
        classes: names, in the order of the logits.
        counts: what the score is made of, int64 (n, classes); see `Task.count`.
    """

    def row(name: str, right: int, total: int, score: float) -> list[str]:
        return [name, str(right), str(total), "-" if math.isnan(score) else f"{score:.2%}"]

    correct, total, scores = counts[0], counts[1], task.class_scores(counts)
    listed = zip(classes, correct.tolist(), total.tolist(), scores.tolist(), strict=True)
    rows = [row(*each) for each in listed]
    all_of = int(total.sum())
    footer = row("all", int(correct.sum()), all_of, task.score(counts)[0] if all_of else math.nan)
    return Table(["class", "correct", task.labels, task.class_metric], rows, left=1, footer=footer)
