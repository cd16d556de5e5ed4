"""Tables: their rows as Markdown, and in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table


def as_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """A table in Markdown, a line a row; all columns but the first `left` are flush right."""
    rule = ["--" if place < left else "--:" for place in range(len(headings))]
    lines = (headings, rule, *rows)
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def as_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> Table:
    """The same for a terminal."""
    table = Table()
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < left else "right")
    for row in rows:
        table.add_row(*row)
    return table
