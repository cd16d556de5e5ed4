"""Files that are written completely or not at all. Does not import torch."""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from compress.runtime import distributed
from compress.runtime.arguments import require_path
from compress.runtime.errors import UserError, one_line

# The suffix of a file that is being written, or whose writer was killed.
PART = ".part"
# Bytes free on a disk that counts as full.
LITTLE = 2**16
# The columns of a table of predictions, and the first ones of a table of classes.
CSV_HEADER = "image,rank,class,probability,error"
CLASSES_CSV_HEADER = "class,images,precision,recall,f1"
PIXELS_CSV_HEADER = "class,pixels,iou,precision,recall"
# By this, a report is known.
PAGE_MARK = b'<meta name="generator" content="compress">'


def remove_parts(folder: Path) -> None:
    """Remove the files in `folder` that a killed process left half-written."""
    for file in folder.glob(f".*{PART}"):
        file.unlink(missing_ok=True)


def require_file(path: str | Path) -> Path:
    """Return `path` as a Path.

    Raises:
        UserError: `path` is not a file, or no path at all.
    """
    path = require_path(path)
    try:
        if not path.is_file():
            raise UserError(f"{path}: {'not a' if path.exists() else 'no such'} file")
    except OSError as error:
        # Such as a name that is too long.
        raise UserError(one_line(error)) from error
    return path


def is_file(path: str | Path) -> bool:
    """Return True if there is a file at `path`; a text that is too long for a path names none."""
    # Path.is_file() raises an error for one.
    return os.path.isfile(path)  # noqa: PTH113


def is_file_name(name: object) -> bool:
    """Return True if `name` names a file in a folder, and nothing outside of it."""
    return isinstance(name, str) and name == Path(name).name not in ("", "..") and "\0" not in name


def require_replaceable(path: str | Path, *headers: str) -> Path:
    """Check that a table can be written to `path`, and return it with its links resolved.

    Args:
        headers: the beginning of its first line, by which an older such table is known; or several
            that it may have.

    Raises:
        UserError: it is a file of another kind, such as weights or an image, or in no folder.
    """
    # Path.resolve() raises an error for a link to itself.
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir() or (os.path.lexists(target) and not target.is_file()):
        raise UserError(f"{path}: cannot be written; choose a file in an existing folder")
    if target.exists():
        with target.open("rb") as file:
            begins = file.read(max(map(len, headers)))
        if begins and not begins.startswith(tuple(header.encode() for header in headers)):
            raise UserError(f"{path}: exists, and is not such a table; choose another")
    return target


def require_folder(path: str | Path) -> None:
    """Check that files can be written to the folder `path`, which may not exist yet.

    Raises:
        UserError: it, or what it would lie in, is a file or a link to nothing, or cannot be
            written.
    """
    target = Path(path).absolute()
    found = next(each for each in (target, *target.parents) if each.exists() or each.is_symlink())
    if not found.is_dir() or not os.access(found, os.W_OK | os.X_OK):
        reason = "cannot be written" if found.is_dir() else "is not a folder"
        raise UserError(f"{path}: {found} {reason}; choose another folder")


def require_page(path: str | Path) -> None:
    """Check that a page can be written to `path`: its ending is .html, and no other file is there.

    Raises:
        UserError: it is not so.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{path}: a page ends in .html; rename it")
    if not Path(os.path.realpath(target)).parent.is_dir():
        raise UserError(f"{path}: cannot be written; choose a file in an existing folder")
    if target.is_file():
        with target.open("rb") as file:
            if PAGE_MARK not in file.read(1024):
                raise UserError(f"{path}: exists, and is not a report; choose another --out")
    elif target.exists() or target.is_symlink():
        raise UserError(f"{path}: already exists; choose another --out")


class Output(io.RawIOBase):
    """A file that is being written. An error of the disk is kept, and what follows is dropped.

    So a library that writes to it comes to its end in good order, and the error is raised then.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.room = file, 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.room += len(view)
        written = 0
        while self.error is None and written < len(view):
            try:
                written += self.file.write(view[written:])
            except OSError as error:
                self.error = error
        return len(view)

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def sync(self) -> None:
        """Wait until the disk has the content; raise what went wrong before."""
        if self.error is not None:
            raise self.error
        os.fsync(self.file.fileno())


@contextmanager
def atomic_write(path: str | Path, room: int = 0) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing bytes and rename it to `path` when the block succeeds.

    After that, `path` holds the new content even if the power fails. In a distributed run only the
    main process writes; what the others write is discarded.

    Args:
        room: about the bytes that will be written, for the message of a full disk.

    Raises:
        UserError: the folder cannot be written, or the disk is full; `path` is as it was.
    """
    if not distributed.is_main():
        with Path(os.devnull).open("wb") as nowhere:
            yield nowhere
        return
    path = Path(path)
    # Named before it exists, so that even Ctrl-C while it is created leaves nothing.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PART}")
    output: Output | None = None
    try:
        make_folder(path.parent)
        # Without a buffer, no error comes later than the write that it belongs to.
        with temporary.open("x+b", buffering=0) as file:
            output = Output(file)
            yield cast(IO[bytes], output)
            output.sync()
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        failed = error if isinstance(error, OSError) else output and output.error
        if failed:
            needed = max(room, output.room if output else 0)
            raise UserError(describe_failure(path, failed, needed)) from failed
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
        make_folder(path.parent)
        folder.mkdir()
        yield folder / path.name
        written = sorted(folder.iterdir(), key=lambda file: file.name == path.name)
        for file in written:
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        # The file that is asked for comes last, when all others are in place.
        for file in written:
            file.replace(path.with_name(file.name))
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(describe_failure(path, error, _count_bytes(folder))) from error
    except RuntimeError as error:
        # Libraries wrap the error of a full disk into their own.
        if shutil.disk_usage(path.parent).free > LITTLE:
            raise
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise UserError(describe_failure(path, full, _count_bytes(folder))) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, so that they stay even if the power fails.

    Raises:
        OSError: it cannot be created.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names of the files in `folder`."""
    # Some file systems, and Windows, cannot do it for folders.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def describe_failure(path: Path, error: OSError, needed: int = 0) -> str:
    """Describe an error of writing `path` in one line, with what to do.

    Args:
        needed: bytes that the file needs, as far as they are known.
    """
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{path}: cannot be written ({error.strerror or error}); choose another path"
    free = ""
    with suppress(OSError):
        free = f", {format_size(shutil.disk_usage(path.parent).free)} are free"
    return (
        f"{path}: cannot be written ({error.strerror}): it needs at least"
        f" {format_size(needed)}{free}; make room, and run the same command again"
    )


def format_size(count: int) -> str:
    """Return a number of bytes in kilobytes or megabytes, rounded up."""
    return f"{-(-count // 10**6):,} MB" if count > 10**6 else f"{-(-count // 1000):,} KB"


def _count_bytes(folder: Path) -> int:
    with suppress(OSError):
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return 0


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, completely or not at all."""
    content = text.encode()
    with atomic_write(path, len(content)) as file:
        file.write(content)
