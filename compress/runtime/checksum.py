"""Checksums of files, to notice bytes that a disk or a copy has changed. Does not import torch.

They guard against accidents. Whoever changes a file on purpose can change its checksum too.

`torch.save` writes zip archives, with a CRC-32 of the content of each member that torch never
verifies. What they leave out, headers and padding, gets a CRC-32 of its own, as the comment of the
archive. So every byte is covered, for no more than reading the headers again.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from compress.runtime.errors import UserError

MAGIC = b"compress-crc32:"
# The comment of an archive: the magic and eight hexadecimal digits.
SEAL_BYTES = len(MAGIC) + 8
CHUNK = 2**18
# The record that ends an archive without a comment; its last two bytes are the comment's length.
END_BYTES = 22
# An entry of the metadata of an ONNX file: its key, and the bytes that it takes.
ENTRY_KEY = b"compress.crc32"
ENTRY_BYTES = len(ENTRY_KEY) + 14
# What stands around the eight digits at the end of files that may go on there, by their suffix. A
# protocol buffer goes on where another one ends, XML by a comment; ExecuTorch reads no further
# than its program.
ENDS = {
    ".onnx": (
        bytes([0x72, ENTRY_BYTES - 2, 0x0A, len(ENTRY_KEY)]) + ENTRY_KEY + bytes([0x12, 8]),
        b"",
    ),
    ".xml": (b"<!-- compress-crc32:", b" -->\n"),
    ".pte": (MAGIC, b""),
}
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
    with zipfile.ZipFile(file) as archive:
        seal = _make_seal(file, archive)
    assert seal is not None
    file.seek(size)
    file.write(seal)


def check_archive(path: Path) -> None:
    """Verify all checksums of a zip archive; other files are taken as they are.

    Archives of other programs have no checksum of their headers.

    Raises:
        UserError: the file is damaged.
    """
    # Without a buffer: what is read goes to the checksum at once.
    with path.open("rb", buffering=0) as file:
        begins, tail = file.read(2), _read_tail(file, SEAL_BYTES)
        if begins != b"PK" and not _is_almost(tail, MAGIC):
            return
        try:
            with zipfile.ZipFile(file) as archive:
                seal = _make_seal(file, archive, verify=True)
                # An archive that ends before its comment counts as one without.
                ends = _read_tail(file, END_BYTES).startswith(b"PK") and not tail.endswith(bytes(2))
                sealed = bool(archive.comment) or _is_almost(tail, MAGIC) or ends
            intact = seal is not None and (not sealed or tail == seal)
        # What is damaged may look like anything: encrypted, compressed, of another disk.
        except (
            zipfile.BadZipFile,
            OSError,
            ValueError,
            RuntimeError,
            EOFError,
            struct.error,
            zlib.error,
        ) as error:
            raise UserError(f"{path}: damaged, or cut short; restore it from a copy") from error
    if not intact:
        raise UserError(
            f"{path}: damaged: its content does not match its checksum; restore it from a copy"
        )


def seal_file(path: Path, beside: Sequence[Path] = ()) -> None:
    """Append a checksum to a file that has just been written, if it is of a kind that can have one.

    These are zip archives, and files of the suffixes in `ENDS`.

    Args:
        beside: files that belong to it, which its checksum covers as well.
    """
    suffix = path.suffix.lower()
    if suffix in ENDS:
        end = _make_end(suffix, path.read_bytes(), beside)
        with path.open("ab") as file:
            file.write(end)
    elif zipfile.is_zipfile(path):
        with path.open("r+b") as file:
            seal_archive(file)


def check_file(path: Path, beside: Sequence[Path] = ()) -> None:
    """Verify the checksums of a file, if it has some; one of another program has none.

    Args:
        beside: as for `seal_file`.

    Raises:
        UserError: the file is damaged, or one beside it.
    """
    suffix = path.suffix.lower()
    if suffix not in ENDS:
        check_archive(path)
        return
    content, marks = path.read_bytes(), ENDS[suffix]
    size = sum(map(len, marks)) + 8
    content, found = content[:-size], content[-size:]
    # The end may be damaged as well.
    ends = _is_almost(found, marks[0]) and _is_almost(found[::-1], marks[1][::-1])
    if ends and found != _make_end(suffix, content, beside):
        others = "".join(f", or that of {each.name}," for each in beside)
        raise UserError(
            f"{path}: damaged: its content{others} does not match its checksum; export it again"
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


def _make_end(suffix: str, content: bytes, beside: Sequence[Path]) -> bytes:
    """Return the end of a file with this content: its checksum, between the marks of its kind."""
    crc = zlib.crc32(content)
    for each in beside:
        crc = zlib.crc32(each.read_bytes(), crc)
    before, after = ENDS[suffix]
    return before + f"{crc:08x}".encode() + after


def _is_almost(found: bytes, mark: bytes) -> bool:
    """Return True if `found` begins with `mark`, of which a quarter may be damaged."""
    different = sum(ours != theirs for ours, theirs in zip(found, mark, strict=False))
    return len(found) >= len(mark) and different <= len(mark) // 4


def _hash_table(table: dict[str, Any]) -> str:
    content = {key: value for key, value in table.items() if key != KEY}
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def _read_tail(file: IO[bytes], count: int) -> bytes:
    file.seek(max(-count, -file.seek(0, 2)), 2)
    return file.read()


def _make_seal(file: IO[bytes], archive: zipfile.ZipFile, verify: bool = False) -> bytes | None:
    """Return the seal of an archive: of all its bytes but its members' and the last eight.

    Args:
        verify: return None if a member does not match its checksum.
    """
    buffer = memoryview(bytearray(CHUNK))
    crc, at = 0, 0
    end = file.seek(0, 2) - 8
    for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
        file.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
        start = member.header_offset + 30 + name + extra
        crc, at = _add_crc(file, at, start, crc, buffer), start + member.compress_size
        if verify and not _is_intact(file, archive, member, start, buffer):
            return None
    return MAGIC + f"{_add_crc(file, at, end, crc, buffer):08x}".encode()


def _is_intact(
    file: IO[bytes],
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    start: int,
    buffer: memoryview,
) -> bool:
    """Return True if the content of a member, from `start` on, matches its checksum."""
    if member.compress_type == zipfile.ZIP_STORED:
        return _add_crc(file, start, start + member.file_size, 0, buffer) == member.CRC
    crc = 0
    with archive.open(member) as content:
        while part := content.read(CHUNK):
            crc = zlib.crc32(part, crc)
    return crc == member.CRC


def _add_crc(file: IO[bytes], start: int, stop: int, crc: int, buffer: memoryview) -> int:
    """Return `crc` continued over the bytes of `file` from `start` to `stop`."""
    if stop < start:
        raise ValueError("its members overlap")
    file.seek(start)
    while start < stop:
        count = file.readinto(buffer[: stop - start])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("it is cut short")
        crc = zlib.crc32(buffer[:count], crc)
        start += count
    return crc
