"""The ledger of an experiment: the trials that were started, and the rows of its table.

It does not import torch.

A trial's own `run.json` cannot replace it. A trial that shares another one's teacher has that
weights file in its recipe there, under a path that breaks when the directory moves; so it no longer
says which trial it is. And a trial that fails before its first stage leaves no `run.json`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from compress.recipe.load import validate_table
from compress.runtime.errors import UserError
from compress.runtime.files import is_file_name
from compress.runtime.sealed_json import read_sealed, write_sealed

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


Name = Annotated[str, AfterValidator(_check_name)]


@dataclass(frozen=True)
class Ledger:
    """The content of the ledger.

    Args:
        trials: those that were started, by the names of their directories.
        rows: labels of the trials of the table, by the names of their directories, in its order;
            None if an earlier release wrote it.
    """

    trials: dict[Name, Entry]
    rows: dict[Name, dict[str, str]] | None = None


def read_ledger(folder: Path) -> Ledger:
    """Return the ledger of the experiment in `folder`; an empty one if it was never started.

    Raises:
        UserError: the folder holds something else, or the ledger is damaged.
    """
    file = folder / LEDGER
    if not file.is_file():
        _check_unused(folder)
        return Ledger({})
    try:
        table = read_sealed(file, "damaged")
        # Earlier releases wrote the trials alone.
        sections = isinstance(table, dict) and "rows" in table
        table = table if sections else {"trials": table}
        return validate_table(Ledger, table, f"{file}: damaged")
    except UserError as error:
        raise UserError(f"{error}; choose another --out") from error


def write_entry(folder: Path, name: str, entry: Entry) -> None:
    """Add the trial `name` to the ledger in `folder`, or replace its entry."""
    ledger = read_ledger(folder)
    _write(folder, replace(ledger, trials=ledger.trials | {name: entry}))


def write_rows(folder: Path, rows: dict[str, dict[str, str]]) -> None:
    """Let the ledger in `folder` have these rows."""
    ledger = read_ledger(folder)
    if list((ledger.rows or {}).items()) != list(rows.items()):
        _write(folder, replace(ledger, rows=rows))


def _write(folder: Path, ledger: Ledger) -> None:
    write_sealed(folder / LEDGER, asdict(ledger))


def _check_unused(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir() or any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise UserError(
            f"{folder}: not empty, and not an experiment's directory; choose another --out"
        )
