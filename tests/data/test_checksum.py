"""Checksums of images: they change with the images and the targets, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dataset_files import write_images

from compress.data.checksum import checksum_images
from compress.data.folders import list_images
from compress.data.source import Files, Pixels


@pytest.fixture
def files(tmp_path: Path) -> Files:
    write_images(tmp_path / "images", ["cat", "dog", "emu"], 8)
    return list_images("folder", tmp_path / "images")[1]


def test_the_checksum_of_files_depends_on_files_and_targets(files: Files) -> None:
    known, order = checksum_images(files), torch.arange(23, -1, -1)
    assert len(known) == 64 and known == checksum_images(files.take(order))
    assert known != checksum_images(files.take(order[1:]))
    assert known != checksum_images(Files(files.root, files.names, files.targets.flip(0)))
    file = files.root / files.names[3]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert known != checksum_images(files)
    file.write_bytes(content)
    assert known == checksum_images(files)


def test_only_sizes_of_many_bytes_count(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compress.data.checksum.CONTENT_LIMIT_BYTES", 100)
    known, file = checksum_images(files), files.root / files.names[3]
    file.write_bytes(bytes(len(file.read_bytes())))
    assert known == checksum_images(files)
    with file.open("ab") as longer:
        longer.write(b"\0")
    assert known != checksum_images(files)


def test_the_checksum_of_files_does_not_depend_on_the_folder(files: Files) -> None:
    known, moved = checksum_images(files), files.root.with_name("elsewhere")
    files.root.rename(moved)
    assert known == checksum_images(Files(moved, files.names, files.targets))


def test_the_checksum_of_pixels_depends_on_pixels_and_targets() -> None:
    pixels, targets = torch.arange(192, dtype=torch.uint8).view(4, 3, 4, 4), torch.arange(4)
    brighter = pixels.clone()
    brighter[3, 0, 2, 2] ^= 1
    images = [
        Pixels(pixels, targets),
        Pixels(brighter, targets),
        Pixels(pixels, targets.flip(0)),
        Pixels(pixels[1:], targets[1:]),
    ]
    assert len({checksum_images(each) for each in images}) == 4
    assert checksum_images(Pixels(pixels.clone(), targets)) == checksum_images(images[0])
