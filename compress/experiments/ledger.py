"""The ledger of an experiment: the trials that were started, by name. Does not import torch.

A trial's own `run.json` cannot replace it. A trial that shares another one's teacher has that
weights file in its recipe there, under a path that breaks when the directory moves; so it no longer
says which trial it is. And a trial that fails before its first stage leaves no `run.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress.runtime.errors import UserError, one_line
from compress.runtime.files import write_text

LEDGER = "experiment.json"


@dataclass(frozen=True)
class Entry:
    """A trial that was started.

    Args:
        recipe: of the trial, as plain data.
        error: one line, if it failed when it last ran.
    """

    recipe: dict[str, Any]
    error: str | None = None


def read_ledger(folder: Path) -> dict[str, Entry]:
    """Return the entries of the experiment in `folder`, by the names of the trials' directories.

    Raises:
        UserError: the folder holds something else, or the ledger is damaged.
    """
    file = folder / LEDGER
    if not file.is_file():
        _check_unused(folder)
        return {}
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return {name: Entry(entry["recipe"], entry["error"]) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: damaged: {one_line(error)}; choose another --out") from error


def write_entry(folder: Path, name: str, entry: Entry) -> None:
    """Add the trial `name` to the ledger in `folder`, or replace its entry."""
    entries = read_ledger(folder) | {name: entry}
    table = {name: asdict(entry) for name, entry in entries.items()}
    write_text(folder / LEDGER, json.dumps(table, indent=1) + "\n")


def _check_unused(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise UserError(
            f"{folder}: not empty, and not an experiment's directory; choose another --out"
        )
