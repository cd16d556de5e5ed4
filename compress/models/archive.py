"""Files of torch.save, looked at before they are read: their sizes, and the shape of their pickle.

A few kilobytes may unpack to gigabytes, take minutes, or nest values so deeply that the interpreter
crashes. Nothing is unpickled here.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import IO

from compress.runtime.errors import UserError

# Training scripts keep a tensor or three for each of a network's, with some twenty instructions.
MAX_RECORDS, MAX_INSTRUCTIONS, MAX_NESTING = 50_000, 1_000_000, 1_000
# A pickle so small can do no harm: the interpreter stands 100,000 levels.
SMALL_PICKLE = 2**16
# Torch's old format is five pickles, one after the other, and then the values.
LEGACY_PICKLES = 5

SAVE_TENSORS = "save the tensors alone, torch.save(model.state_dict(), …)"
CHANGES = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")
MARK = -1


# What files begin with that people take for weights files, and what to do.
OTHER_FILES = {
    b"version https://git-lfs": "a pointer of Git LFS, without the file itself; run `git lfs pull`",
    b"<!doctype html": "a web page, not a weights file; download the file itself",
    b"<html": "a web page, not a weights file; download the file itself",
    b"\x89hdf\r\n": "an HDF5 file, as of Keras; only files of PyTorch and safetensors are read",
}


def check_kind(path: Path) -> None:
    """Refuse files of other kinds that often stand in the place of a weights file.

    Raises:
        UserError: it is one of them; the message is the reason alone.
    """
    with path.open("rb") as file:
        begins = file.read(256).lstrip().lower()
    for beginning, reason in OTHER_FILES.items():
        if begins.startswith(beginning):
            raise UserError(reason)


def check_sizes(path: Path) -> None:
    """Check that a file of ``torch.save`` unpacks to no more than its own size, and in short time.

    What is no such file at all is left to torch, which refuses it.

    Raises:
        UserError: a size is out of proportion; the message is the reason alone.
    """
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            _check_pickles(file, LEGACY_PICKLES)
            return
        if _count_records(file) > MAX_RECORDS:
            raise UserError(f"has more than {MAX_RECORDS:,} tensors")
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return
        records = archive.infolist()
        if any(record.filename.endswith("/constants.pkl") for record in records):
            raise UserError(f"a TorchScript archive; {SAVE_TENSORS}")
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise UserError("is compressed inside, as torch.save never does")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise UserError("has parts that are larger than the file")
        for record in records:
            if record.filename.endswith(".pkl") and record.file_size > SMALL_PICKLE:
                _check_pickles(io.BytesIO(_read_record(archive, record)), 1)


def _read_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(record)
    except (zipfile.BadZipFile, ValueError, RuntimeError, OSError, EOFError):
        return b""


def _count_records(file: IO[bytes]) -> int:
    """Return the number of records that the end of a zip file tells, as its listing may be long."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 2**16 - 22))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 12:
        return 0
    (count,) = struct.unpack_from("<H", tail, at + 10)
    large = tail.rfind(b"PK\x06\x06", 0, at)
    if large >= 0 and len(tail) >= large + 40:
        (count,) = struct.unpack_from("<Q", tail, large + 32)
    return int(count)


def _check_pickles(file: IO[bytes], number: int) -> None:
    """Check the number of instructions in pickles, and how deeply the values nest."""
    for _ in range(number):
        try:
            _check_pickle(file)
        except UserError:
            raise
        # Not a pickle, or a damaged one.
        except Exception:
            return


def _check_pickle(file: IO[bytes]) -> None:
    """Follow a pickle's instructions with the depths of values in place of the values."""
    stack: list[int] = []
    memo: dict[object, int] = {}
    for count, (code, argument, _) in enumerate(pickletools.genops(file)):
        name = code.name
        if count >= MAX_INSTRUCTIONS:
            raise UserError(f"has more than {MAX_INSTRUCTIONS:,} parts")
        if name.endswith("PUT") or name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1]
            continue
        if name.endswith("GET"):
            stack.append(memo[argument])
            continue
        taken = _take(stack, code)
        below = taken.pop() if name in CHANGES else 0
        depth = max(below, 1 + max(taken, default=0))
        if depth > MAX_NESTING:
            raise UserError(f"nested more than {MAX_NESTING} levels deep")
        marks = (kind is pickletools.markobject for kind in code.stack_after)
        stack += [MARK if mark else depth for mark in marks]


def _take(stack: list[int], code: pickletools.OpcodeInfo) -> list[int]:
    """Pop the depths of what an instruction takes from the stack, the deepest down last."""
    taken: list[int] = []
    needed = len(code.stack_before)
    if pickletools.stackslice in code.stack_before:
        needed -= 2
        while (depth := stack.pop()) != MARK:
            taken.append(depth)
    return taken + [stack.pop() for _ in range(needed)]
