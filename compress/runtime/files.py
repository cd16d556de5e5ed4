"""Files that are there whole or not at all. Free of torch, so that one that is missing is missed at once."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from compress.runtime import distributed as processes
from compress.runtime.errors import UserError

PART = ".part"  # ends the name of a file that is still being written, or whose writer was killed


def existing(path: str | Path) -> Path:
    """`path`, which has to be a file.

    Raises:
        UserError: there is none.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: {'not a' if Path(path).exists() else 'no such'} file")
    return Path(path)


@contextmanager
def atomically(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file beside `path` for writing bytes; it takes the place of `path` when the block ends well.

    Of several processes of a run only the first writes: what the others would write is thrown away.

    Raises:
        UserError: nothing can be written there.
    """
    if not processes.first():
        with Path(os.devnull).open("wb") as nowhere:
            yield nowhere
        return
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    except OSError as error:
        raise UserError(f"{path}: cannot be written there ({error.strerror}); choose another place") from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomically(path) as file:
        file.write(text.encode())
