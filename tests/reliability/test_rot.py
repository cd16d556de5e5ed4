"""Rot: a single changed byte, or a missing end, is noticed by whatever reads the file."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import compress
from compress.models.tensor_file import read_tensors, write_tensors
from compress.runtime.errors import UserError

CONTENT = {"a": torch.arange(40.0), "names": ["x", "y"], "b": torch.ones(3, 5)}
damages = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None
)


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@damages
@given(st.data())
def test_no_changed_byte_of_a_tensor_file_is_used(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "file.state"
    write_tensors(CONTENT, path)
    size = path.stat().st_size
    if data.draw(st.booleans()):
        flip(path, data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 7)))
    else:
        path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, size - 1))])
    with pytest.raises(UserError, match=str(path)) as refused:
        read_tensors(path)
    assert "\n" not in str(refused.value)


def test_files_without_a_seal_are_read_and_their_content_is_verified(
    tmp_path: Path, weights: Path
) -> None:
    """Those of older releases, and of other programs."""
    path = tmp_path / "old.pth"
    torch.save(torch.load(weights, weights_only=True), path)
    assert len(compress.load(path).classes) == 4
    with zipfile.ZipFile(path) as archive:
        stored = max(archive.infolist(), key=lambda member: member.file_size)
    flip(path, stored.header_offset + random.Random(0).randrange(500, stored.file_size))
    with pytest.raises(UserError, match="checksum"):
        compress.load(path)


def test_other_programs_read_the_files(weights: Path) -> None:
    assert torch.load(weights, weights_only=True, mmap=True)["format"] == "compress.weights"
    with zipfile.ZipFile(weights) as archive:
        assert archive.testzip() is None
