"""The metrics of a stage's epochs, as training left them in its `.jsonl` file."""

from __future__ import annotations

from pathlib import Path

from compress.runtime.errors import UserError
from compress.runtime.plain_files import read_text
from compress.runtime.sealed_json import open_line

# Metrics that every epoch has, beside its named losses.
KEYS = ("epoch", "loss", "val", "seconds")


def read_history(file: Path) -> list[dict[str, float]]:
    """Return the metrics of each epoch by name; none if there is no file.

    Raises:
        UserError: the file is damaged.
    """
    if not file.is_file():
        return []
    try:
        lines = map(open_line, read_text(file).splitlines())
        found = [{key: _to_float(value) for key, value in line.items()} for line in lines]
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: damaged, not the metrics of a stage") from error
    if any(key not in line for line in found for key in KEYS):
        raise UserError(f"{file}: damaged, lacks {', '.join(KEYS)} of an epoch")
    return found


def _to_float(value: object) -> float:
    # Text is the checksum, under a name that was damaged.
    if not isinstance(value, int | float):
        raise TypeError("not a number")
    return float(value)
