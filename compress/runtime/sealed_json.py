"""JSON files with a checksum of their content. Does not import torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress.runtime.checksum import FORMAT_KEY, KEY, check_table, seal_table
from compress.runtime.files import write_text
from compress.runtime.plain_files import read_json


def write_sealed(path: Path, table: dict[str, Any], indent: int = 1) -> None:
    """Write a table as JSON with the checksum of its content, completely or not at all."""
    write_text(path, json.dumps(seal_table(table), indent=indent) + "\n")


def read_sealed(path: Path, what: str = "not JSON") -> Any:
    """Read what `write_sealed` wrote, without its checksum; a file without one is read as it is.

    Args:
        what: begins the message if it is no JSON.

    Raises:
        UserError: there is no such file, it is not JSON, or it does not match its checksum.
    """
    table = read_json(path, what)
    if not isinstance(table, dict):
        return table
    check_table(table, str(path))
    return {key: value for key, value in table.items() if key not in (KEY, FORMAT_KEY)}


def seal_line(line: dict[str, Any]) -> str:
    """Return a table as a line of JSON with the checksum of its content."""
    return json.dumps(line | {KEY: seal_table(line)[KEY]}) + "\n"


def open_line(text: str) -> dict[str, Any]:
    """Parse a line of `seal_line`, and return it without its checksum; it may have none.

    Raises:
        ValueError: it is not JSON, no table, or does not match its checksum.
    """
    line = json.loads(text)
    if not isinstance(line, dict):
        raise ValueError("not a table")
    plain = {key: value for key, value in line.items() if key != KEY}
    if KEY in line and line[KEY] != seal_table(plain)[KEY]:
        raise ValueError("it does not match its checksum")
    return plain
