"""Images with masks: listed, checked, loaded, and moved together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_files import CLASSES, SIDE, save_mask, write_masks, write_pairs
from PIL import Image

from compress.data import scenes
from compress.data.batches import Batch, training_batches
from compress.data.dataset import Dataset
from compress.data.masks import crop_masks, uncrop_mask
from compress.data.open_dataset import open_dataset
from compress.data.photo import center_box
from compress.data.pool import MemoryPool
from compress.data.source import Pixels
from compress.data.sources import open_source
from compress.recipe.stages import Augment
from compress.runtime.errors import UserError


def masks_of(data: Dataset) -> torch.Tensor:
    assert isinstance(data.train, MemoryPool) and data.train.masks is not None
    return data.train.masks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masks(tmp_path_factory.mktemp("masks") / "data", 12, 4)


def test_images_and_masks_are_matched_by_name(folder: Path) -> None:
    data = open_dataset(f"masks:{folder}", val_fraction=0.25)
    assert data.classes == CLASSES and data.image_size == SIDE and data.has_masks
    assert (data.train_count, data.val_count, len(data.test())) == (9, 3, 4)
    mask = np.array(Image.open(folder / "train" / "masks" / "000.png"))
    assert any(np.array_equal(mask, each.numpy()) for each in masks_of(data))
    assert data.mirrors and data.crop_ratio == 1


@pytest.mark.parametrize("layout", ["one folder", "splits inside"])
def test_layouts(layout: str, tmp_path: Path) -> None:
    inside = ("train", "val", "test") if layout == "splits inside" else ("",)
    for seed, split in enumerate(inside):
        write_pairs(tmp_path / "images" / split, tmp_path / "masks" / split, 10, seed)
    source = open_source(f"masks:{tmp_path}")
    # Without names, classes are numbered.
    assert source.classes == ("0", "1", "2")
    count = len(source.train.targets), len(source.test().targets)
    assert count == ((8, 2) if layout == "one folder" else (10, 10))
    assert (source.val is None) == (layout == "one folder")


def test_masks_count_for_the_checksum(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    before, same = (open_dataset(f"masks:{each}").checksum for each in (folder, copy))
    save_mask(np.ones((SIDE, SIDE), np.uint8), copy / "train" / "masks" / "001.png")
    assert before == same != open_dataset(f"masks:{copy}").checksum


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("missing", "002.png has no mask"),
        ("colours", "002.png: a mask of colours"),
        ("number", "002.png.*the value 7"),
        ("size", "32×32 pixels, and its mask 002.png 16×32"),
        ("cut short", "002.png: (damaged|not an image)"),
    ],
)
def test_a_broken_mask_is_named(broken: str, expected: str, folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = copy / "test" / "masks" / "002.png"
    match broken:
        case "missing":
            file.unlink()
        case "colours":
            Image.new("RGB", (SIDE, SIDE)).save(file)
        case "number":
            save_mask(np.full((SIDE, SIDE), 7, np.uint8), file)
        case "size":
            save_mask(np.zeros((SIDE, SIDE // 2), np.uint8), file)
        case _:
            file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UserError, match=expected) as error:
        open_dataset(f"masks:{copy}", verify=True)
    assert "\n" not in str(error.value)
    if broken != "missing":
        left = open_dataset(f"masks:{copy}", skip_broken=True)
        assert len(left.test()) == 3 and "left out" in left.notes[-1]


def test_a_mask_of_another_size_is_refused_where_files_are_not_verified(
    folder: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    save_mask(np.zeros((SIDE, SIDE // 2), np.uint8), copy / "test" / "masks" / "002.png")
    with pytest.raises(UserError, match=r"32×32 pixels, and its mask .*002.png 16×32"):
        open_dataset(f"masks:{copy}").test()


def test_masks_without_an_image_are_named(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    images = copy / "test" / "images"
    (images / "002.png").rename(images / "002.heic")
    assert not open_source(f"masks:{folder}").notes
    [note] = open_source(f"masks:{copy}").notes
    assert "1 of 4 masks" in note and "002.png" in note


def test_masks_without_any_class_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for file in (copy / "train" / "masks").iterdir():
        save_mask(np.full((SIDE, SIDE), 255, np.uint8), file, False)
    with pytest.raises(UserError, match="no pixel of the training masks has a class"):
        open_dataset(f"masks:{copy}").load()


def test_pixels_of_no_class_are_allowed(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    save_mask(np.full((SIDE, SIDE), 255, np.uint8), copy / "train" / "masks" / "000.png", False)
    data = open_dataset(f"masks:{copy}", verify=True, val_fraction=0.1)
    assert set(masks_of(data).unique().tolist()) <= {0, 1, 2, 255}


def gradient() -> Dataset:
    """Images whose red and green say where a pixel is, and masks that say so in steps of 16."""
    place = torch.arange(64)
    pixels = torch.zeros(6, 3, 64, 64, dtype=torch.uint8)
    pixels[:, 0], pixels[:, 1] = 4 * place, 4 * place[:, None]
    blocks = (place // 16 + 4 * (place // 16)[:, None]).to(torch.uint8)
    images = Pixels(pixels, torch.zeros(6, dtype=torch.int64), blocks.repeat(6, 1, 1))
    normal = ((0.0,) * 3, (1.0,) * 3)
    return Dataset(
        "gradient",
        tuple(map(str, range(16))),
        64,
        images,
        images,
        lambda: images,
        normalization=normal,
    )


GRADIENT = gradient()


def first_batch(augment: Augment, view: int = 0) -> Batch:
    return next(
        training_batches(
            GRADIENT, augment, encode_targets=lambda t: t, seed=0, view=view, batch_size=6
        )
    )


@settings(max_examples=20, deadline=None)
@given(view=st.integers(0, 1000), flip=st.booleans())
def test_a_mask_goes_where_its_image_goes(view: int, flip: bool) -> None:
    batch = first_batch(Augment(crop=(0.2, 0.9), flip=flip), view)
    # Where each pixel comes from, on a scale of pixels.
    place = batch.images[:, :2] * 255 / 4
    # At the border between two blocks, half a pixel decides.
    clear = ((place + 0.5) % 16 - 0.5).abs() > 1
    clear &= ((place + 0.5) % 16 - 0.5) < 15
    inside = clear.all(1)
    found = ((place + 0.5) // 16).long()
    expected = found[:, 0] + 4 * found[:, 1]
    assert inside.float().mean() > 0.5
    assert torch.equal(batch.targets[inside], expected[inside])


def test_colours_change_in_images_alone_and_erased_parts_do_not_count() -> None:
    plain, colored, erased = (
        first_batch(Augment(crop=None, flip=False, **keys))
        for keys in ({}, {"color_jitter": 0.5}, {"erase_prob": 1.0})  # type: ignore[arg-type]
    )
    assert torch.equal(plain.targets, colored.targets)
    assert not torch.allclose(plain.images, colored.images, atol=0.01)
    hole = erased.targets == 255
    assert hole.any() and bool((erased.images.permute(0, 2, 3, 1)[hole] == 0).all())
    assert torch.equal(erased.targets[~hole], plain.targets[~hole])


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(20, 60),
    width=st.integers(20, 60),
    ratio=st.sampled_from([1.0, 0.8]),
)
def test_a_mask_of_the_square_comes_back_on_the_image(
    height: int, width: int, ratio: float
) -> None:
    mask = torch.arange(height * width).view(1, height, width) // width // 10
    box = center_box((height, width), (16, 16), ratio)
    square = crop_masks(mask.to(torch.uint8), torch.tensor([box]), (16, 16))[0]
    back = uncrop_mask(square, (height, width), ratio)
    assert back.shape == (height, width)
    left, top, right, bottom = box
    y, x = torch.arange(height) + 0.5, torch.arange(width) + 0.5

    def within(margin: float) -> torch.Tensor:
        rows = (y > top + margin) & (y < bottom - margin)
        return rows[:, None] & (x > left + margin) & (x < right - margin)

    # Rounding decides where the centre of a pixel is on the edge.
    seen = within(1e-3)
    assert (back[seen] != 255).all() and (back[~within(-1e-3)] == 255).all()
    # A pixel of the square is a few of the image.
    assert (back[seen].int() - mask[0][seen].int()).abs().max() <= 1


def test_voc(cache: Path, tmp_path: Path) -> None:
    root = cache / "VOCdevkit" / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    for split, count in (("train", 30), ("val", 3)):
        names = [f"{split}_{number}" for number in range(count)]
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
        for number, name in enumerate(names):
            Image.new("RGB", (50, 40)).save(root / "JPEGImages" / f"{name}.jpg")
            mask = np.full((40, 50), number % 21, np.uint8)
            mask[:3] = 255
            save_mask(mask, root / "SegmentationClass" / f"{name}.png")
    data = open_dataset("voc2012", image_size=32, verify=True, val_fraction=0.1)
    assert len(data.classes) == 21 and data.classes[15] == "person"
    assert (data.train_count, len(data.test())) == (27, 3)
    assert 255 in masks_of(data).unique() and int(masks_of(data).unique()[-2]) == 20


def test_camvid(cache: Path) -> None:
    root = cache / "CamVid"
    with pytest.raises(UserError, match=r"no camvid data: .*CamVid.*not downloaded"):
        open_dataset("camvid")
    for split, count in (("train", 12), ("val", 3), ("test", 4)):
        (root / split).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (48, 36)).save(root / split / f"0001TP_{number:06}.png")
            mask = np.full((36, 48), number % 11, np.uint8)
            mask[:3] = 11
            save_mask(mask, root / f"{split}annot" / f"0001TP_{number:06}.png", palette=False)
    data = open_dataset("camvid", image_size=36, verify=True)
    assert len(data.classes) == 11 and data.classes[8] == "car"
    assert (data.train_count, data.val_count, len(data.test())) == (12, 3, 4)
    assert (masks_of(data)[:, :3] == 255).all() and int(masks_of(data)[:, 3:].max()) == 10
    shutil.rmtree(root / "valannot")
    with pytest.raises(UserError, match=r"camvid: .*valannot is missing"):
        open_dataset("camvid")


def test_oxford_pets(cache: Path) -> None:
    root = cache / "oxford-iiit-pet"
    (root / "images").mkdir(parents=True)
    for split, count in (("trainval", 8), ("test", 3)):
        names = [f"Birman_{split}_{number}" for number in range(count)]
        (root / "annotations").mkdir(exist_ok=True)
        lines = [f"{name} 1 1 1\n" for name in names]
        (root / "annotations" / f"{split}.txt").write_text("".join(lines))
        for name in names:
            Image.new("RGB", (40, 40)).save(root / "images" / f"{name}.jpg")
            mask = np.full((40, 40), 2, np.uint8)
            mask[:20], mask[20] = 1, 3
            save_mask(mask, root / "annotations" / "trimaps" / f"{name}.png", palette=False)
    data = open_dataset("oxford-pets", image_size=40, verify=True, val_fraction=0.25)
    assert data.classes == ("background", "pet") and len(data.test()) == 3
    column = masks_of(data)[0, :, 0]
    assert column.tolist() == [1] * 20 + [255] + [0] * 19


def test_scenes_are_the_same_each_time_and_keep_the_splits_apart(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clothes() -> Any:
        splits = [
            Pixels(torch.full((10, 1, 28, 28), grey, dtype=torch.uint8), torch.arange(10))
            for grey in (255, 100)
        ]
        return type("Clothes", (), {"train": splits[0], "test": lambda self: splits[1]})()

    monkeypatch.setattr(scenes, "fashion_mnist", clothes)
    monkeypatch.setattr(scenes, "SCENES", {"train": 40, "test": 5})
    first = open_source("fashion-scenes")
    shutil.rmtree(cache / "fashion-scenes")
    again = open_source("fashion-scenes")
    assert isinstance(first.train, Pixels) and isinstance(again.train, Pixels)
    assert torch.equal(first.train.pixels, again.train.pixels)
    test = first.test()
    assert isinstance(test, Pixels) and test.masks is not None and first.train.masks is not None
    assert first.train.masks.unique().tolist() == list(range(11))
    # Things in test scenes are darker: they come from the darker images.
    bright = first.train.pixels.movedim(1, -1)[first.train.masks > 0].amax(1)
    dark = test.pixels.movedim(1, -1)[test.masks > 0].amax(1)
    assert dark.max() <= 100 < bright.max()
