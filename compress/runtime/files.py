"""Files that are written completely or not at all. Does not import torch."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from compress.runtime import distributed
from compress.runtime.errors import UserError

# The suffix of a file that is being written, or whose writer was killed.
PART = ".part"
# The columns of a table of predictions.
CSV_HEADER = "image,rank,class,probability,error"


def require_file(path: str | Path) -> Path:
    """Return `path` as a Path.

    Raises:
        UserError: `path` is not a file.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: {'not a' if Path(path).exists() else 'no such'} file")
    return Path(path)


def is_file_name(name: object) -> bool:
    """Return True if `name` names a file in a folder, and nothing outside of it."""
    return isinstance(name, str) and name == Path(name).name not in ("", "..") and "\0" not in name


def require_replaceable(path: str | Path, header: str) -> Path:
    """Check that a table can be written to `path`, and return it with its links resolved.

    Args:
        header: the beginning of its first line, by which an older such table is known.

    Raises:
        UserError: it is a file of another kind, such as weights or an image, or in no folder.
    """
    target = Path(path).resolve()
    if not target.parent.is_dir() or (target.exists() and not target.is_file()):
        raise UserError(f"{path}: cannot be written; choose a file in an existing folder")
    if target.exists():
        with target.open("rb") as file:
            begins = file.read(len(header.encode()))
        if begins not in (b"", header.encode()):
            raise UserError(f"{path}: exists, and is not a table of predictions; choose another")
    return target


@contextmanager
def atomic_write(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing bytes and rename it to `path` when the block succeeds.

    In a distributed run only the main process writes; what the others write is discarded.

    Raises:
        UserError: the folder cannot be written.
    """
    if not distributed.is_main():
        with Path(os.devnull).open("wb") as nowhere:
            yield nowhere
        return
    path = Path(path)
    # Named before it exists, so that even Ctrl-C while it is created leaves nothing.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("xb")
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); choose another path"
            ) from error
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def staged_files(path: str | Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside `path`, for a library to write to.

    When the block succeeds, every file in that folder is moved beside `path`; a format may have
    several. Otherwise nothing is left.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    folder = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        yield folder / path.name
        written = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
        for file in written:
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        # The file that is asked for comes last, when all others are in place.
        for file in written:
            file.replace(path.with_name(file.name))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another path"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, completely or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())
