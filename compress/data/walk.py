"""Files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, sorted by folder and name.

    Links to folders are followed, except those that lead back to a folder around them.
    """
    found = []
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [each for each in folders if not _leads_back(Path(where, each))]
        found.append((where, sorted(names)))
    for where, names in sorted(found):
        yield from (Path(where, name) for name in names)


def _leads_back(path: Path) -> bool:
    if not path.is_symlink():
        return False
    target = path.resolve()
    return any(parent.resolve().is_relative_to(target) for parent in path.absolute().parents)
