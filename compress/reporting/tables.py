"""Tables: one type for the terminal, Markdown, CSV and HTML, and the tables of this package."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import rich.table
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
    from compress.deployment.predict import Prediction
    from compress.reporting.compare import ModelReport


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        headings: of the columns.
        rows: a cell for every heading.
        left: number of columns, from the left, that are aligned left; the others are aligned right.
        title: a line above the table.
        footer: a last row that is set apart, as for totals.

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

    def as_rich(self) -> rich.table.Table:
        """Return the table for a `rich.console.Console`.

        Cells are shown without markup; what would control the terminal is escaped.
        """
        table = rich.table.Table(title=self.title, title_justify="left")
        for index, heading in enumerate(self.headings):
            table.add_column(
                Text(safe_line(heading)), justify=self._alignment(index), overflow="fold"
            )
        for row in self.rows:
            table.add_row(*(Text(safe_line(cell)) for cell in row))
        if self.footer:
            table.add_section()
            table.add_row(*(Text(safe_line(cell)) for cell in self.footer))
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


def stages_table(results: Sequence[StageResult]) -> Table:
    """Return the stages of a run, from the teacher to the final model."""
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
    total = format_duration(sum(result.seconds for result in results))
    footer = ["all", *[""] * len(costs), total] if results else None
    return Table(["stage", "network", *costs], rows, left=2, title="stages", footer=footer)


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


def classes_table(classes: Sequence[str], correct: Sequence[int], total: Sequence[int]) -> Table:
    """Return the top-1 accuracy of each class and of all images.

    Args:
        classes: names, in the order of the logits.
        correct, total: number of correct predictions, and of images, of each class.
    """

    def row(name: str, right: int, images: int) -> list[str]:
        return [name, str(right), str(images), f"{right / images:.2%}" if images else "-"]

    rows = [row(*counts) for counts in zip(classes, correct, total, strict=True)]
    footer = row("all", sum(correct), sum(total))
    return Table(["class", "correct", "images", "accuracy"], rows, left=1, footer=footer)
