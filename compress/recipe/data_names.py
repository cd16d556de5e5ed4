"""Names of data: a registered data set, or a place, as ``folder:PATH``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from compress.recipe.in_memory import is_in_memory
from compress.recipe.registry import DATA_SOURCES, import_object
from compress.runtime.errors import UserError, one_line, quote

# Data that is named by its place, as ``folder:PATH``: what follows the prefix, and what opens it.
DATA_PLACES = {
    "folder": ("PATH", "compress.data.folders:open_folder"),
    "masks": ("PATH", "compress.data.mask_folders:open_masks"),
    "csv": ("FILE", "compress.data.csv_files:open_csv"),
    "hf": ("NAME-OR-PATH", "compress.data.hugging_face:open_hugging_face"),
}


def split_data_name(data: str) -> tuple[str, str] | None:
    """Split ``folder:PATH`` and the like into prefix and place; None for a registered name.

    Example:
        >>> split_data_name("folder:photos"), split_data_name("mnist")
        (('folder', 'photos'), None)
    """
    prefix, colon, place = data.partition(":")
    return (prefix, place) if colon and prefix in DATA_PLACES else None


def expand_home(place: str) -> Path:
    """Return the path of a place, with ``~`` expanded; ``~name`` stays if there is no such user."""
    # Path.expanduser() raises an error then; the name may come from another machine.
    return Path(os.path.expanduser(place))  # noqa: PTH111


def check_data_name(data: str | None) -> Path | None:
    """Check that `data` is a registered data set, or a place, as ``folder:PATH`` or ``hf:NAME``.

    None is accepted.

    Returns:
        The folder for ``folder:PATH`` and ``masks:PATH``, the file for ``csv:FILE``, else None.

    Raises:
        UserError: there is no such data set, folder or file.
    """
    if data is None or is_in_memory(data):
        return None
    prefix, place = split_data_name(data) or (None, data)
    if prefix is not None and not place:
        raise UserError(f"{data} names no place; write {prefix}:{DATA_PLACES[prefix][0]}")
    path = expand_home(place)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:
        # Such as a name that is too long.
        raise UserError(one_line(error)) from error
    if prefix in ("folder", "masks"):
        if not is_folder:
            raise UserError(f"{data}: there is no folder {path}" + _suggest_place(path))
        return path
    if prefix == "csv":
        if not is_file:
            raise UserError(f"{data}: there is no file {path}" + _suggest_place(path))
        return path
    if prefix is None and data not in DATA_SOURCES:
        if hint := _suggest_place(path):
            raise UserError(f"unknown {DATA_SOURCES.kind} {quote(data)}{hint}")
        forms = [f"{name}:{rest}" for name, (rest, _) in DATA_PLACES.items()]
        raise UserError(DATA_SOURCES.describe_unknown(data, *forms))
    return None


def _suggest_place(path: Path) -> str:
    """Return a hint at the prefix that fits what lies at `path`, or an empty string."""
    if path.is_dir():
        return f"; did you mean folder:{path}?"
    return f"; did you mean csv:{path}?" if path.is_file() and path.suffix == ".csv" else ""


def load_data_place(prefix: str) -> Any:
    """Import and return the function that opens the data of a prefix in `DATA_PLACES`."""
    return import_object(DATA_PLACES[prefix][1])
