"""Tables of image files: a csv with a line for each image."""

from __future__ import annotations

import codecs
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from compress.data.labelled_files import make_source, to_numbers
from compress.data.source import Files, Source
from compress.data.split_names import split_of
from compress.runtime.errors import UserError, did_you_mean
from compress.runtime.files import is_file
from compress.runtime.plain_files import read_bytes
from compress.runtime.text import normalize_name

# Columns, and the names under which they are known, in any case.
COLUMNS = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image"),
    "label": ("label", "class", "category", "class_name", "label_name", "target"),
    "split": ("split", "set", "subset", "fold_name"),
    "group": ("group", "group_id"),
}
# Of a table: as much as millions of lines take.
MAX_BYTES = 2**28
REQUIRED = ("path", "label")
# The first line that Excel takes for the delimiter.
DELIMITER_LINE = re.compile(r'"?sep=([^"\r\n])"?[,;\t]*\s*', re.IGNORECASE)
# What paths and labels cannot hold.
LINE_BREAK = "a line break; remove it, or close a quote before it"
ODD_SIGNS = {"\0": "a NUL byte; remove it", "\n": LINE_BREAK, "\r": LINE_BREAK}


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    split: str
    group: str


def open_csv(path: Path) -> Source:
    """List the images of a table with the columns ``path``, ``label``, ``split`` and ``group``.

    Paths are relative to the table's folder. Without ``split``, a fifth of each class is held out
    as the test split. Images of one group, such as photos of one object, stay on one side of every
    split. The last two columns may be missing. No image is read.

    Raises:
        UserError: the table cannot be read, or a line of it is wrong; the message names the line.

    Example:
        >>> open_csv(Path("labels.csv")).classes
        ('cat', 'dog')
    """
    name = f"csv:{path}"
    lines = _read_lines(name, path)
    _, header = next(lines, (1, []))
    columns, notes = _find_columns(name, header)
    rows = [
        _read_row(f"{name}: line {line}", line, cells, columns, path.parent)
        for line, cells in lines
    ]
    if not rows:
        raise UserError(f"{name}: has no lines below its header")
    _check_rows(name, path, rows)
    classes = tuple(sorted({row.label for row in rows}))
    by_split: dict[str, list[_Row]] = {}
    for row in rows:
        by_split.setdefault(row.split, []).append(row)
    for split, members in by_split.items():
        missing = sorted(set(classes) - {row.label for row in members})
        if missing:
            raise UserError(f"{name}: no image of {missing[0]!r} in the {split} split")
    splits = {
        split: Files(
            path.parent,
            tuple(row.path for row in members),
            to_numbers([row.label for row in members], classes),
        )
        for split, members in by_split.items()
    }
    groups = _number_groups(by_split.get("train", []))
    return make_source(name, classes, splits, notes, groups)


def _read_lines(name: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line that is not empty."""
    text = io.StringIO(_read_text(name, path), newline="")
    first = text.readline()
    named = DELIMITER_LINE.fullmatch(first)
    if not named:
        text.seek(0)
    table = csv.reader(text, delimiter=named[1] if named else max(",;\t", key=first.count))
    skipped = 1 if named else 0
    line = skipped + 1
    try:
        for cells in table:
            if any(cell.strip() for cell in cells):
                yield line, cells
            line = skipped + table.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}: line {line}: {error}") from error


def _read_text(name: str, path: Path) -> str:
    """Read a table in UTF-8 or, as Excel may write it, in UTF-16."""
    try:
        content = read_bytes(path, MAX_BYTES)
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: is not text in UTF-8 or UTF-16 ({error})") from error
    except (OSError, UserError) as error:
        raise UserError(f"{name}: {str(error).removeprefix(f'{path}: ')}") from error


def _find_columns(name: str, header: list[str]) -> tuple[dict[str, int], list[str]]:
    """Return the place of each column that the table has, and lines on what was chosen."""
    cells = [cell.strip().lower() for cell in header]
    places, notes = {}, []
    for column, names in COLUMNS.items():
        known = [cell for each in names for cell in cells if cell == each]
        if len(known) > 1 and known[0] == known[1]:
            raise UserError(
                f"{name}: line 1: {known[0]!r} names several columns; rename the others"
            )
        if known:
            places[column] = cells.index(known[0])
        if len(known) > 1:
            notes.append(f"{column} is the column {known[0]!r}, and not {known[1]!r}")
    for column in REQUIRED:
        if column not in places:
            hint = did_you_mean(column, cells)
            found = ", ".join(filter(None, header)) or "nothing"
            raise UserError(
                f"{name}: line 1: no column {column!r}{hint}; the first line names the columns"
                f" path, label and, if wanted, split and group; found: {found[:200]}"
            )
    return places, notes


def _read_row(
    where: str, line: int, cells: list[str], columns: dict[str, int], folder: Path
) -> _Row:
    needed = max(columns[column] for column in REQUIRED)
    if len(cells) <= needed:
        raise UserError(f"{where}: has {len(cells)} of at least {needed + 1} columns")
    found = {
        column: cells[place].strip() if place < len(cells) else ""
        for column, place in columns.items()
    }
    for column in REQUIRED:
        if not found[column]:
            raise UserError(f"{where}: {column} is empty")
        if odd := next((sign for sign in ODD_SIGNS if sign in found[column]), None):
            raise UserError(f"{where}: {column} holds {ODD_SIGNS[odd]}")
    split = "train"
    if "split" in columns:
        known = split_of(found["split"])
        if known is None:
            raise UserError(f"{where}: split {found['split']!r} is unknown; use train, val or test")
        split = known
    place = _find_path(folder, found["path"])
    return _Row(line, place, normalize_name(found["label"]), split, found.get("group", ""))


def _find_path(folder: Path, path: str) -> str:
    """Return a path as this system writes it; tables from Windows have backslashes."""
    # Path.exists() raises an error if the cell is too long for a path.
    if "\\" in path and not os.path.exists(folder / path):  # noqa: PTH110
        return path.replace("\\", "/")
    return path


def _check_rows(name: str, path: Path, rows: list[_Row]) -> None:
    """Check that no image comes twice, no group is in two splits, and the folder is right."""
    lines: dict[str, _Row] = {}
    groups: dict[str, _Row] = {}
    folder = os.path.abspath(path.parent)  # noqa: PTH100
    for row in rows:
        # One file may be written in several ways.
        place = os.path.normpath(os.path.join(folder, row.path))  # noqa: PTH118
        first = lines.setdefault(place, row)
        if first is not row:
            raise UserError(f"{name}: line {row.line}: {row.path} is in line {first.line} already")
        first = groups.setdefault(row.group, row) if row.group else row
        if first.split != row.split:
            raise UserError(
                f"{name}: line {row.line}: group {row.group!r} is in {row.split}, and in"
                f" {first.split} in line {first.line}; its images belong on one side"
            )
    if not any(is_file(path.parent / row.path) for row in rows):
        raise UserError(
            f"{name}: line {rows[0].line}: there is no file {path.parent / rows[0].path}; paths are"
            f" relative to {path.parent}"
        )


def _number_groups(rows: list[_Row]) -> torch.Tensor | None:
    """Return the number of each row's group; a row without a group has one of its own."""
    if not any(row.group for row in rows):
        return None
    names = [("group", row.group) if row.group else ("line", str(row.line)) for row in rows]
    numbers = {each: number for number, each in enumerate(Counter(names))}
    return torch.tensor([numbers[each] for each in names], dtype=torch.int64)
