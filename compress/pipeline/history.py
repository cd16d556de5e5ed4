"""The metrics of a stage's epochs, as training left them in its `.jsonl` file."""

from __future__ import annotations

import json
from pathlib import Path

from compress.runtime.errors import UserError
from compress.runtime.plain_files import read_text

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
        lines = [json.loads(line) for line in read_text(file).splitlines()]
        found = [{str(key): float(value) for key, value in line.items()} for line in lines]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: damaged, not the metrics of a stage") from error
    if any(key not in line for line in found for key in KEYS):
        raise UserError(f"{file}: damaged, lacks {', '.join(KEYS)} of an epoch")
    return found
