"""JSON and TOML files: read within limits, whatever they hold. Does not import torch.

A file of a few kilobytes can cost gigabytes or minutes: by nesting, by digits, or by parts that it
shares thousands of times. So sizes come before content.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compress.runtime.errors import UserError, one_line
from compress.runtime.files import require_file

MAX_JSON_BYTES, MAX_TOML_BYTES = 2**24, 2**20
# Parts are counted as often as they occur, and characters as parts.
MAX_DEPTH, MAX_VALUES, MAX_CHARACTERS, MAX_BITS = 50, 1_000_000, 2**25, 1024


def read_json(path: str | Path, what: str = "not JSON") -> Any:
    """Read a JSON file.

    Args:
        what: begins the message if it is none.

    Raises:
        UserError: there is no such file, or it is not JSON, or exceeds a limit.
    """
    return _read(Path(path), MAX_JSON_BYTES, json.loads, what)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: there is no such file, or it is empty, or not TOML, or exceeds a limit.
    """
    table: dict[str, Any] = _read(Path(path), MAX_TOML_BYTES, tomllib.loads, "not TOML")
    if not table:
        raise UserError(f"{path}: is empty; write keys and values to it")
    return table


def read_text(path: str | Path, limit: int = MAX_JSON_BYTES, encoding: str = "utf-8") -> str:
    """Read a text file of at most `limit` bytes, in UTF-8.

    Raises:
        UserError: there is no such file, or it is larger, or not text.
    """
    try:
        return read_bytes(path, limit).decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def read_bytes(path: str | Path, limit: int) -> bytes:
    """Read a file of at most `limit` bytes.

    Raises:
        UserError: there is no such file, or it is larger.
    """
    with require_file(Path(path)).open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path}: larger than {limit:,} bytes")
    return content


def check_plain(value: Any) -> None:
    """Check that plain data is small, also where parts of it are shared.

    Raises:
        UserError: it is nested too deeply, or has too many parts, or text that is not Unicode.
    """
    values, characters = 1, 0
    left = [(value, 0)]
    while left:
        each, depth = left.pop()
        if isinstance(each, str | bytes | bytearray):
            characters += len(each)
            if isinstance(each, str) and not _is_unicode(each):
                raise UserError(f"{each[:60]!r} is not text in UTF-8")
        elif isinstance(each, int) and each.bit_length() > MAX_BITS:
            raise UserError("a number in it has hundreds of digits")
        elif isinstance(each, Mapping | list | tuple | set | frozenset):
            if depth >= MAX_DEPTH:
                raise UserError(f"nested more than {MAX_DEPTH} levels deep")
            values += len(each) * (2 if isinstance(each, Mapping) else 1)
            if values <= MAX_VALUES:
                children = [*each, *each.values()] if isinstance(each, Mapping) else each
                left += [(child, depth + 1) for child in children]
        if values > MAX_VALUES or characters > MAX_CHARACTERS:
            raise UserError(f"more than {MAX_VALUES:,} values, or {MAX_CHARACTERS:,} characters")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(path: Path, limit: int, parse: Callable[[str], Any], what: str) -> Any:
    content = read_bytes(path, limit)
    try:
        # Some editors begin a file with a byte order mark.
        found = parse(content.decode("utf-8-sig"))
        check_plain(found)
    except UserError as error:
        raise UserError(f"{path}: {what}: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: {what}: nested too deeply") from error
    # Also of numbers with thousands of digits.
    except ValueError as error:
        raise UserError(f"{path}: {what}: {one_line(error)}") from error
    return found
