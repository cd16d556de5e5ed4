"""A small weights file takes neither gigabytes nor minutes, and does not crash the interpreter."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from limits import read_limited
from small_checkpoints import small_checkpoint

from compress.models import checkpoint
from compress.models.archive import MAX_RECORDS, check_sizes
from compress.models.tensor_file import read_training_file
from compress.runtime.errors import UserError

MILLION = 1_000_000


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """The content of a weights file that is as it should be."""
    return checkpoint.to_dict(small_checkpoint())


def to_archive(pickled: bytes, *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a file as torch.save writes it, without tensors, around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as archive:
        archive.writestr("model/data.pkl", pickled)
        archive.writestr("model/version", b"3\n")
        archive.writestr("model/byteorder", b"little")
    return file.getvalue()


def save(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def as_key(levels: int) -> bytes:
    """Return a pickle of a dictionary whose key is a tuple in a tuple in a tuple: a hash of it
    takes more stack than a process has."""
    return b"\x80\x02})" + b"\x85" * levels + b"K\x01s."


def tell_records(count: int) -> bytes:
    """Return a file that says that it holds so many records."""
    file = bytearray(save({"a": torch.zeros(1)}))
    at = file.rfind(b"PK\x06\x06")
    if at >= 0:
        struct.pack_into("<QQ", file, at + 24, count, count)
    end = file.rfind(b"PK\x05\x06")
    struct.pack_into("<HH", file, end + 8, min(count, 65535), min(count, 65535))
    return bytes(file)


def overlap(content: dict[str, Any]) -> bytes:
    """Return a file in which all names stand for the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}, 2))
        archive.writestr("model/data/0", bytes(10**6))
        first = archive.getinfo("model/data/0")
        for number in range(1, 2000):
            copy = zipfile.ZipInfo(f"model/data/{number}")
            for name in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
                setattr(copy, name, getattr(first, name))
            archive.filelist.append(copy)
    return file.getvalue()


def laugh(levels: int) -> list[Any]:
    found: list[Any] = ["ha"] * 10
    for _ in range(levels):
        found = [found] * 10
    return found


def share(content: dict[str, Any]) -> bytes:
    """Return a network of gigabytes whose tensors all begin at the same value."""
    with torch.device("meta"):
        huge = torchvision.models.vit_h_14(weights=None, num_classes=5).state_dict()
    values = torch.zeros(max(value.numel() for value in huge.values()))
    shared = {key: values[: value.numel()].view(value.shape) for key, value in huge.items()}
    network = {"network": {"name": "vit_h_14"}, "widths": {}, "input_size": [3, 224, 224]}
    return save(content | network | {"state_dict": shared})


BOMBS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "a gigabyte of zeros, compressed": lambda _: to_archive(
        b"\x80\x02X" + struct.pack("<I", 2**30 - 1) + bytes(2**30 - 1) + b".",
        compression=zipfile.ZIP_DEFLATED,
    ),
    "a million records": lambda _: tell_records(MILLION),
    "records that overlap": overlap,
    "lists in lists": lambda _: to_archive(
        b"\x80\x02" + b"]" * MILLION + b"a" * (MILLION - 1) + b"."
    ),
    "tuples in tuples": lambda _: to_archive(b"\x80\x02)" + b"\x85" * 3 * MILLION + b"."),
    "tuples in tuples as a key": lambda _: to_archive(as_key(3 * MILLION)),
    "tuples in tuples as a key, in the old format": lambda _: as_key(3 * MILLION),
    "a version that laughs": lambda content: save(content | {"version": laugh(30)}),
    "a network that laughs": lambda content: save(content | {"network": {"name": laugh(30)}}),
    "an origin that laughs": lambda content: save(content | {"origin": {"a": laugh(30)}}),
    "a million classes": lambda content: save(
        content | {"classes": [str(number) for number in range(MILLION)]}
    ),
    "two hundred thousand classes": lambda content: save(
        content | {"classes": [str(number) for number in range(200_000)]}
    ),
    "a million tensors": lambda content: (
        save(content)
        and to_archive(
            b"\x80\x02}("
            + b"".join(b"X\x07\x00\x00\x00%07dK\x01" % n for n in range(MILLION))
            + b"u."
        )
    ),
    "fifty thousand tensors of one storage": lambda content: save(
        content | {"state_dict": {str(n): torch.zeros(1)[:] for n in range(30_000)}}
    ),
    "tensors that share their values": share,
    "a long number": lambda content: save(content | {"version": 1 << 10**6}),
    "long text, often": lambda content: save(content | {"origin": {"a": ["a" * 10**6] * 1000}}),
}


@pytest.mark.slow
def test_bombs_are_refused_within_a_gigabyte_and_seconds(
    content: dict[str, Any], tmp_path: Path
) -> None:
    paths = [tmp_path / f"{name}.pth" for name in BOMBS]
    for path, make in zip(paths, BOMBS.values(), strict=True):
        path.write_bytes(make(content))
    for path, message in zip(paths, read_limited(checkpoint.load, paths), strict=True):
        assert message and message.startswith(f"{path}: "), path.name
        assert len(message) < 300 + len(str(path))
    # Reading files of training scripts takes no more, whether they are refused or not.
    read_limited(read_training_file, [path for path in paths if "tuples" in path.name])
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_what_torch_saves_is_accepted(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    for zipped in (True, False):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        check_sizes(path)
        assert checkpoint.load(path).classes == small_checkpoint().classes
    # Long lists are written in batches: these are no levels.
    torch.save({"losses": list(range(300_000)), "table": {n: n for n in range(100_000)}}, path)
    check_sizes(path)


def test_the_count_of_records_comes_before_their_listing(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(tell_records(MAX_RECORDS + 1))
    with pytest.raises(UserError, match="more than"):
        check_sizes(path)
