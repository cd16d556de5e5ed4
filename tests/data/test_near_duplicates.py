"""Near-duplicates among validation images: counted, whatever their size, and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data.near_duplicates import count_near_duplicates, note_near_duplicates
from compress.data.open_dataset import open_dataset


def write_images(folder: Path, copies: int) -> None:
    """Write 40 images of random patches, and a smaller and brighter copy of the first `copies`."""
    random = np.random.default_rng(0)
    for number in range(40):
        patches = random.integers(0, 200, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(patches).resize((64, 64), Image.Resampling.BILINEAR)
        for split in ("train", "val", "test"):
            place = folder / split / ("even", "odd")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            if split == "train":
                image.save(place / f"{number}.png")
            elif number < copies:
                smaller = image.resize((48, 48)).point(lambda value: value + 20)
                smaller.save(place / f"{number}.jpg", quality=90)
            else:
                other = random.integers(0, 200, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(other).resize((64, 64)).save(place / f"{number}.png")


@pytest.mark.parametrize("copies", [0, 3, 12, 40])
def test_copies_in_another_size_are_counted(tmp_path: Path, copies: int) -> None:
    write_images(tmp_path, copies)
    data = open_dataset(f"folder:{tmp_path}", image_size=32)
    assert count_near_duplicates(data.train, data.val) == copies
    lines = note_near_duplicates(data)
    assert len(lines) == (copies >= 4)
    assert all(f"{copies} of 40 validation images" in line for line in lines)
    lines = note_near_duplicates(data, data.test())
    assert len(lines) == (copies >= 4)
    assert all(f"{copies} of 40 test images" in line for line in lines)


def test_validation_images_in_place_of_test_images_are_compared_once(tmp_path: Path) -> None:
    write_images(tmp_path, 40)
    data = open_dataset(f"folder:{tmp_path}", image_size=32)
    shared = replace(data, test_images=lambda: data.val_images)
    assert note_near_duplicates(shared) and not note_near_duplicates(shared, shared.test())


def test_images_of_one_colour_are_like_no_other(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for label, value in (("dark", 10), ("light", 200)):
            (tmp_path / split / label).mkdir(parents=True)
            for number in range(3):
                file = tmp_path / split / label / f"{number}.png"
                Image.new("RGB", (32, 32), (value + number,) * 3).save(file)
    data = open_dataset(f"folder:{tmp_path}", image_size=32)
    assert count_near_duplicates(data.train, data.val) == 0


def test_published_data_is_not_searched(tmp_path: Path) -> None:
    write_images(tmp_path, 40)
    data = open_dataset(f"folder:{tmp_path}", image_size=32)
    assert note_near_duplicates(replace(data, name="fashion-mnist")) == []
