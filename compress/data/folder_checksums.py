"""Checksums of the files in folders of the cache, to notice bytes that a disk has changed."""

from __future__ import annotations

import zlib
from pathlib import Path

from compress.runtime.errors import UserError
from compress.runtime.sealed_json import read_sealed, write_sealed

# The file in a folder that holds the checksums of the others.
CHECKSUMS = ".checksums.json"
# Larger folders have none: reading them takes too long.
MOST_BYTES, MOST_FILES = 2**29, 100_000


def seal_folder(folder: Path) -> None:
    """Write the checksums of all files in a folder to a file in it, unless they are too large."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if len(files) <= MOST_FILES and sum(file.stat().st_size for file in files) <= MOST_BYTES:
        found = {file.relative_to(folder).as_posix(): _checksum(file) for file in files}
        write_sealed(folder / CHECKSUMS, found)


def check_folder(folder: Path) -> None:
    """Verify the files in a folder; one that another program made has no checksums.

    Raises:
        UserError: a file is damaged, or missing.
    """
    if not (folder / CHECKSUMS).is_file():
        return
    known = read_sealed(folder / CHECKSUMS, "damaged")
    if not isinstance(known, dict):
        raise UserError(f"{folder / CHECKSUMS}: damaged; remove it")
    for name, checksum in known.items():
        if not (folder / name).is_file() or _checksum(folder / name) != checksum:
            raise UserError(
                f"{folder / name}: damaged, or missing: it does not match its checksum; remove"
                f" {folder}, and it is made again"
            )


def _checksum(file: Path) -> str:
    return f"{zlib.crc32(file.read_bytes()):08x}"
