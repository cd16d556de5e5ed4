"""A full disk: one line that names the file and the room, nothing lost, and the run goes on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tiny import Tiny, assert_same

import compress
from compress.models.tensor_file import read_tensors, write_tensors
from compress.runtime.errors import UserError
from compress.runtime.files import Output, staged_files, write_text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB, where this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_file_system_names_the_file_and_the_room(small_disk: Path) -> None:
    path = small_disk / "model.state"
    write_tensors({"a": torch.ones(10_000)}, path)
    with pytest.raises(
        UserError, match=f"{path}: .*it needs at least 2 MB, .* KB are free"
    ) as refused:
        write_tensors({"a": torch.ones(250, 1000)}, path)
    assert "\n" not in str(refused.value)
    assert torch.equal(read_tensors(path)["a"], torch.ones(10_000))
    with (
        pytest.raises(UserError, match=f"{small_disk / 'net.onnx'}: .* are free"),
        staged_files(small_disk / "net.onnx") as staged,
    ):
        staged.write_bytes(bytes(10**6))
    with pytest.raises(UserError, match="it needs at least 900 KB"):
        write_text(small_disk / "table.md", "x" * 900_000)
    assert [file.name for file in small_disk.iterdir()] == ["model.state"]


@pytest.mark.slow
def test_a_run_goes_on_when_there_is_room_again(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full again and again, in the middle of whatever file comes then."""
    out, room = tmp_path / "run", [0]
    real = Output.write

    def write(self: Output, data: bytes) -> int:
        room[0] -= len(memoryview(data).cast("B"))
        if room[0] < 0 and self.error is None:
            self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, data)

    monkeypatch.setattr(Output, "write", write)
    failures: list[str] = []
    for _ in range(20):
        room[0] = 700_000
        try:
            compress.run(str(tiny.recipe), out=out)
            break
        except UserError as error:
            failures.append(str(error))
            assert not list(out.rglob("*.part"))
    assert 2 < len(failures) < 20
    for line in failures:
        assert "\n" not in line and str(out) in line and "No space left" in line
        assert "it needs" in line and "run the same command again" in line
    assert_same(out, finished)
