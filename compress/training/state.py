"""The state of a training, saved after every epoch; the one before it is kept in case of damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from compress.models.tensor_file import read_tensors, write_tensors
from compress.runtime import distributed
from compress.runtime.errors import UserError


def previous_state(state: Path) -> Path:
    """Return the file of the state before `state`."""
    return state.with_suffix(".previous.state")


def write_state(kept: dict[str, Any], state: Path) -> None:
    """Write `kept` to the file `state`; what was there becomes the previous state.

    Raises:
        UserError: the disk is full; the previous state is complete then.
    """
    if distributed.is_main() and state.is_file():
        state.replace(previous_state(state))
    write_tensors(kept, state)


def read_state(state: Path, log: Callable[[str], None]) -> dict[str, Any] | None:
    """Read the newest state that is intact, in all processes; None if there is none.

    Args:
        log: called with a line about each file that is damaged.
    """
    kept: dict[str, Any] | None = None
    for file in (state, previous_state(state)) if distributed.is_main() else ():
        if kept is None and file.is_file():
            try:
                kept = read_tensors(file)
            except UserError as error:
                log(f"  {error}")
    return distributed.broadcast(kept)


def remove_state(state: Path) -> None:
    """Remove a state and the one before it."""
    for file in (state, previous_state(state)):
        file.unlink(missing_ok=True)
