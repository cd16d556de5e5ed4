"""Checksums of files, to notice bytes that a disk or a copy has changed. Does not import torch.

They guard against accidents. Whoever changes a file on purpose can change its checksum too.

`torch.save` writes zip archives, with a CRC-32 of the content of each member that torch never
verifies. What they leave out, headers and padding, gets a CRC-32 of its own, as the comment of the
archive. So every byte is covered, for no more than reading the headers again.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from compress.runtime.errors import UserError

MAGIC = b"compress-crc32:"
# The comment of an archive: the magic and eight hexadecimal digits.
SEAL_BYTES = len(MAGIC) + 8
CHUNK = 2**20
# The record that ends an archive without a comment; its last two bytes are the comment's length.
END_BYTES = 22
# An entry of the metadata of an ONNX file: its key, and the bytes that it takes.
ONNX, ENTRY_KEY = ".onnx", b"compress.crc32"
ENTRY_BYTES = len(ENTRY_KEY) + 14
# The key of a checksum in JSON. A value of "" accepts the file as it is.
KEY = "checksum"
FORMAT_KEY, FORMAT = "format", 2


def seal_archive(file: IO[bytes]) -> None:
    """Append the checksum to an archive of `torch.save` that has just been written to `file`.

    Args:
        file: open for reading and writing.
    """
    size = file.seek(0, 2)
    file.seek(size - 2)
    file.write(SEAL_BYTES.to_bytes(2, "little"))
    file.write(MAGIC + bytes(8))
    seal = _make_seal(file)
    file.seek(size)
    file.write(seal)


def check_archive(path: Path) -> None:
    """Verify all checksums of a zip archive; other files are taken as they are.

    Archives of other programs have no checksum of their headers.

    Raises:
        UserError: the file is damaged.
    """
    with path.open("rb") as file:
        begins, tail = file.read(2), _read_tail(file, SEAL_BYTES)
        if begins != b"PK" and not tail.startswith(MAGIC):
            return
        try:
            with zipfile.ZipFile(file) as archive:
                comment, broken = archive.comment, archive.testzip()
            # An archive that ends before its comment counts as one without.
            ends = _read_tail(file, END_BYTES).startswith(b"PK") and not tail.endswith(bytes(2))
            sealed = bool(comment) or tail.startswith(MAGIC) or ends
            intact = broken is None and (not sealed or tail == _make_seal(file))
        # What is damaged may look like anything: encrypted, compressed, of another disk.
        except (
            zipfile.BadZipFile,
            OSError,
            ValueError,
            RuntimeError,
            EOFError,
            zlib.error,
        ) as error:
            raise UserError(f"{path}: damaged, or cut short; restore it from a copy") from error
    if not intact:
        raise UserError(
            f"{path}: damaged: its content does not match its checksum; restore it from a copy"
        )


def seal_file(path: Path) -> None:
    """Append a checksum to a file that has just been written, if it is of a kind that can have one.

    These are ONNX files and zip archives.
    """
    if path.suffix == ONNX:
        seal_message(path)
    elif zipfile.is_zipfile(path):
        with path.open("r+b") as file:
            seal_archive(file)


def check_file(path: Path) -> None:
    """Verify the checksums of a file, if it is of a kind that has some.

    Raises:
        UserError: the file is damaged.
    """
    if path.suffix == ONNX:
        check_message(path)
    else:
        check_archive(path)


def seal_message(path: Path) -> None:
    """Append a checksum to an ONNX file: an entry of its metadata, over all bytes before it.

    A protocol buffer goes on where another one ends, so this needs no parser.
    """
    content = path.read_bytes()
    with path.open("ab") as file:
        file.write(_make_entry(content))


def check_message(path: Path) -> None:
    """Verify the checksum of an ONNX file; one of another program has none.

    Raises:
        UserError: the file is damaged.
    """
    content = path.read_bytes()
    found, due = content[-ENTRY_BYTES:], _make_entry(content[:-ENTRY_BYTES])
    different = sum(ours != theirs for ours, theirs in zip(found[:-8], due[:-8], strict=False))
    # An entry may be damaged as well.
    if found != due and different < ENTRY_BYTES // 4:
        raise UserError(
            f"{path}: damaged: its content does not match its checksum; export it again"
        )


def seal_table(table: dict[str, Any]) -> dict[str, Any]:
    """Return `table`, which is to be written as JSON, with the checksum of its content."""
    sealed = {key: value for key, value in table.items() if key != KEY} | {FORMAT_KEY: FORMAT}
    return sealed | {KEY: _hash_table(sealed)}


def check_table(table: dict[str, Any], where: str) -> None:
    """Verify the checksum of a JSON file; one of an older release has none.

    Raises:
        UserError: the content is another one than was written.
    """
    if KEY not in table and FORMAT_KEY not in table:
        return
    found = table.get(KEY)
    if found != "" and found != _hash_table(table):
        raise UserError(
            f"{where}: damaged, or edited by hand: it does not match its checksum; restore it from"
            f' a copy, or set "{KEY}" in it to "" to use it as it is'
        )


def _make_entry(content: bytes) -> bytes:
    """Return the metadata entry, {key: checksum}, of a model in ONNX's protocol buffers."""
    value = f"{zlib.crc32(content):08x}".encode()
    entry = bytes([0x0A, len(ENTRY_KEY)]) + ENTRY_KEY + bytes([0x12, len(value)]) + value
    return bytes([0x72, len(entry)]) + entry


def _hash_table(table: dict[str, Any]) -> str:
    content = {key: value for key, value in table.items() if key != KEY}
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def _read_tail(file: IO[bytes], count: int) -> bytes:
    file.seek(max(-count, -file.seek(0, 2)), 2)
    return file.read()


def _make_seal(file: IO[bytes]) -> bytes:
    """Return the seal of an archive: of all its bytes but its members' and the last eight."""
    crc, at = 0, 0
    end = file.seek(0, 2) - 8
    for start, stop in _find_members(file):
        crc, at = _add_crc(file, at, start, crc), stop
    return MAGIC + f"{_add_crc(file, at, end, crc):08x}".encode()


def _find_members(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """Yield where the content of each member begins and ends, in the order of the file."""
    with zipfile.ZipFile(file) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    for member in members:
        file.seek(member.header_offset + 26)
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        start = member.header_offset + 30 + name + extra
        yield start, start + member.compress_size


def _add_crc(file: IO[bytes], start: int, stop: int, crc: int) -> int:
    """Return `crc` continued over the bytes of `file` from `start` to `stop`."""
    if stop < start:
        raise ValueError("its members overlap")
    file.seek(start)
    for at in range(start, stop, CHUNK):
        crc = zlib.crc32(file.read(min(CHUNK, stop - at)), crc)
    return crc
