"""Pools: the same batches from memory and from the disk."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import write_images
from PIL import Image
from torchvision.transforms.v2 import functional as F

from compress.data.folders import list_images
from compress.data.photo import Framing
from compress.data.photos import FilePhotos, MemoryPhotos
from compress.data.pool import MemoryPool, PhotoPool, default_workers, open_pool
from compress.data.source import Files, Pixels
from compress.runtime.errors import UserError


@pytest.fixture
def files(tmp_path: Path) -> Files:
    write_images(tmp_path / "images", ["cat", "dog", "emu"], 8)
    return list_images("folder", tmp_path / "images")[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_memory_and_from_the_disk(files: Files, workers: int) -> None:
    memory = open_pool(files, Framing(16))
    disk = open_pool(files, Framing(16), memory_limit_bytes=0, workers=workers)
    assert isinstance(memory, MemoryPool) and isinstance(disk, PhotoPool)
    assert len(memory) == len(disk) == 24 and torch.equal(memory.targets, disk.targets)
    order = list(torch.split(torch.randperm(24, generator=torch.Generator().manual_seed(0)), 7))
    before = torch.get_rng_state()
    for rows, a, b in zip(order, memory.batches(order), disk.batches(order), strict=True):
        assert a.shape == (len(rows), 3, 16, 16) and a.dtype == torch.uint8
        assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


def test_the_memory_limit_decides_where_files_are_kept(files: Files) -> None:
    size, framing = 24 * 3 * 16 * 16, Framing(16)
    assert isinstance(open_pool(files, framing, memory_limit_bytes=size), MemoryPool)
    assert isinstance(open_pool(files, framing, memory_limit_bytes=size - 1), PhotoPool)


def test_the_memory_limit_of_whole_photos_counts_their_own_pixels(files: Files) -> None:
    size = 3 * sum(
        Image.open(files.root / name).height * Image.open(files.root / name).width
        for name in files.names
    )
    for limit, kind in ((size, MemoryPhotos), (size - 1, FilePhotos)):
        pool = open_pool(files, Framing(16), crops=True, memory_limit_bytes=limit)
        assert isinstance(pool, PhotoPool) and isinstance(pool.photos, kind)


def test_the_memory_limit_is_half_of_what_is_free(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, kind in ((2**40, MemoryPhotos), (1000, FilePhotos), (None, MemoryPhotos)):
        monkeypatch.setattr("compress.data.pool.free_memory", lambda free=free: free)
        pool = open_pool(files, Framing(16), crops=True)
        assert isinstance(pool, PhotoPool) and isinstance(pool.photos, kind)


def test_there_are_no_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {3})
    assert default_workers(1_000_000) == 1 and default_workers(10) == 0


@pytest.mark.parametrize("image_size", [9, 12, 40])
def test_pixels_are_resized_batch_by_batch_and_not_all_at_once(image_size: int) -> None:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 3, 12, 12), generator=random, dtype=torch.uint8)
    pool = open_pool(Pixels(pixels, torch.arange(50)), Framing(image_size))
    assert isinstance(pool, MemoryPool) and pool.pixels.nbytes <= pixels.nbytes
    order = list(torch.split(torch.randperm(50, generator=random), 7))
    resized = F.resize(pixels, [image_size, image_size], antialias=True)
    for rows, images in zip(order, pool.batches(order), strict=True):
        assert torch.equal(images, resized[rows])


def test_an_image_is_resized_by_its_shorter_side_and_cropped_at_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    # The central square.
    pixels[:, 20:60] = (200, 100, 50)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    pool = open_pool(Files(tmp_path, ("wide.png",), torch.tensor([0])), Framing(40))
    image = next(pool.batches([torch.tensor([0])]))
    expected = torch.tensor([200, 100, 50]).view(3, 1, 1)
    assert image.shape == (1, 3, 40, 40) and (image == expected).all()


@pytest.mark.parametrize("memory_limit_bytes", [0, 2**30])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_named_in_one_line(
    files: Files, workers: int, memory_limit_bytes: int
) -> None:
    bad = files.root / files.names[5]
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(UserError, match=f"cannot read the image {bad}") as error:
        pool = open_pool(files, Framing(16), memory_limit_bytes=memory_limit_bytes, workers=workers)
        next(pool.batches([torch.arange(24)]))
    assert "\n" not in str(error.value)


def test_a_damaged_image_on_the_disk_is_named_when_its_batch_is_decoded(files: Files) -> None:
    (files.root / files.names[5]).write_text("not an image")
    pool = open_pool(files, Framing(16), memory_limit_bytes=0, workers=0)
    batches = pool.batches([torch.arange(5), torch.arange(5, 10)])
    assert len(next(batches)) == 5
    with pytest.raises(UserError, match=files.names[5]):
        next(batches)


def test_to_moves_batches_and_targets(files: Files) -> None:
    pool = open_pool(files, Framing(16)).to("meta")
    assert pool.targets.is_meta and next(pool.batches([torch.arange(2)])).is_meta
    assert open_pool(files, Framing(16), memory_limit_bytes=0).to("meta").targets.is_meta
