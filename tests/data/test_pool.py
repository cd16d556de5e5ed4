from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_files import write_images
from PIL import Image
from torchvision.transforms.v2 import functional as F

from compress.data.dataset import open_dataset
from compress.data.pool import DiskPool, MemoryPool, open_pool
from compress.data.sources import Files, Pixels, open_source
from compress.runtime.errors import UserError


@pytest.fixture
def files(tmp_path: Path) -> Files:
    write_images(tmp_path / "images" / "train", ["cat", "dog", "emu"], 8)
    write_images(tmp_path / "images" / "test", ["cat", "dog", "emu"], 1)
    train = open_source(f"folder:{tmp_path}/images").train
    assert isinstance(train, Files)
    return train


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pool_is_the_same_in_memory_and_on_the_disk(files: Files, workers: int) -> None:
    memory, disk = open_pool(files, 16), open_pool(files, 16, memory_limit_bytes=0, workers=workers)
    assert isinstance(memory, MemoryPool) and isinstance(disk, DiskPool)
    assert len(memory) == len(disk) == 24 and torch.equal(memory.targets, disk.targets)
    order = list(torch.split(torch.randperm(24, generator=torch.Generator().manual_seed(0)), 7))
    before = torch.get_rng_state()
    for rows, a, b in zip(order, memory.batches(order), disk.batches(order), strict=True):
        assert a.shape == (len(rows), 3, 16, 16) and a.dtype == torch.uint8
        assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


def test_the_limit_decides_where_a_pool_lies(files: Files) -> None:
    size = 24 * 3 * 16 * 16
    assert isinstance(open_pool(files, 16, memory_limit_bytes=size), MemoryPool)
    assert isinstance(open_pool(files, 16, memory_limit_bytes=size - 1), DiskPool)


@pytest.mark.parametrize("side", [9, 12, 40])
def test_pixels_are_resized_batch_by_batch_as_they_would_be_all_at_once(side: int) -> None:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (50, 3, 12, 12), generator=random, dtype=torch.uint8)
    pool = open_pool(Pixels(pixels, torch.arange(50)), side)
    assert (
        isinstance(pool, MemoryPool) and pool.pixels.nbytes == pixels.nbytes
    )  # however large the side
    order = list(torch.split(torch.randperm(50, generator=random), 7))
    whole = F.resize(pixels, [side, side], antialias=True)
    for rows, images in zip(order, pool.batches(order), strict=True):
        assert torch.equal(images, whole[rows])


def test_an_image_is_resized_by_its_shorter_side_and_cropped_at_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 200  # exactly the central square
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    pool = open_pool(Files(tmp_path, ("wide.png",), torch.tensor([0])), 40)
    image = next(pool.batches([torch.tensor([0])]))
    assert image.shape == (1, 3, 40, 40) and (image == 200).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named(files: Files, workers: int) -> None:
    bad = files.root / files.names[5]
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(UserError, match=f"cannot read the image {bad}") as error:
        open_pool(files, 16, workers=workers)
    assert "\n" not in str(error.value)


def test_the_checksum_follows_files_and_targets(files: Files) -> None:
    def checksum(files: Files) -> str:
        return open_pool(files, 16, memory_limit_bytes=0).checksum()

    order = torch.arange(23, -1, -1)
    assert checksum(files) == checksum(files.take(order))
    assert checksum(files) != checksum(files.take(order[1:]))
    assert checksum(files) != checksum(Files(files.root, files.names, files.targets.flip(0)))
    moved = files.root.with_name("elsewhere")
    files.root.rename(moved)
    assert (
        checksum(Files(moved, files.names, files.targets))
        == open_pool(Files(moved, files.names, files.targets), 8, memory_limit_bytes=0).checksum()
    )


def test_mean_and_std_are_those_of_the_training_pixels(files: Files) -> None:
    data = open_dataset(f"folder:{files.root.parent}", size=16)
    pixels = torch.cat(list(data.train.batches([torch.arange(len(data.train))]))).double() / 255
    assert data.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist())
    assert data.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist())
