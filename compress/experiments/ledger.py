"""The ledger of an experiment: the trials that were started, by name. Does not import torch.

A trial's own `run.json` cannot replace it. A trial that shares another one's teacher has that
weights file in its recipe there, under a path that breaks when the directory moves; so it no longer
says which trial it is. And a trial that fails before its first stage leaves no `run.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from compress.recipe.load import validate_table
from compress.runtime.errors import UserError
from compress.runtime.files import is_file_name, write_text
from compress.runtime.plain_files import read_json

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


def _check_name(name: str) -> str:
    if not is_file_name(name):
        raise ValueError("must be a directory beside the ledger")
    return name


@dataclass(frozen=True)
class _Ledger:
    trials: dict[Annotated[str, AfterValidator(_check_name)], Entry]


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
        table = {"trials": read_json(file, "damaged")}
        return validate_table(_Ledger, table, f"{file}: damaged").trials
    except UserError as error:
        raise UserError(f"{error}; choose another --out") from error


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
