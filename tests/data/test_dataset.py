"""Data sets: the splits, and that opening one reads no image."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dataset_files import write_images
from tiny import Tiny, write_folder

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.data.open_dataset import open_dataset
from compress.data.pool import Pool
from compress.data.source import Pixels, Source
from compress.pipeline.plan import make_plan
from compress.recipe.load import load_recipe
from compress.runtime.errors import UserError


def greys(pool: Pool) -> set[int]:
    """Return the grey values of a pool's images, which tell MNIST's test images apart."""
    (images,) = pool.batches([torch.arange(len(pool))])
    return {int(image.max()) for image in images}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 3 x 8 training, 3 x 2 validation and 3 x 1 test images."""
    for split, count in (("train", 8), ("val", 2), ("test", 1)):
        write_images(tmp_path / "images" / split, ["cat", "dog", "emu"], count)
    return tmp_path / "images"


def damage(folder: Path) -> None:
    for file in folder.rglob("*.png"):
        file.write_bytes(b"not an image")


def test_the_splits_of_a_data_set(mnist: Path) -> None:
    data = open_dataset("mnist")
    assert (data.train_count, data.val_count) == (180, 20) == (len(data.train), len(data.val))
    assert len(data.test()) == 50
    assert data.val.targets.bincount().tolist() == [2] * 10
    assert len(greys(data.train)) == 180 and not greys(data.train) & greys(data.val)


def test_fewer_training_images_are_a_part_of_more_and_validation_stays(mnist: Path) -> None:
    data, half = open_dataset("mnist"), open_dataset("mnist", data_fraction=0.5)
    few = open_dataset("mnist", max_images=30)
    assert half.train_count == 90 and few.train.targets.bincount().tolist() == [3] * 10
    assert greys(few.train) < greys(half.train) < greys(data.train)
    assert greys(half.val) == greys(few.val) == greys(data.val)
    assert open_dataset("mnist", max_images=10_000).train_count == 180


def test_splits_depend_on_the_seed(mnist: Path) -> None:
    data, again, other = (open_dataset("mnist", seed=seed) for seed in (0, 0, 1))
    assert greys(again.val) == greys(data.val) != greys(other.val)


def test_the_checksum_is_that_of_the_training_images(mnist: Path) -> None:
    options: list[dict[str, float]] = [{}, {}, {"data_fraction": 0.5}, {"seed": 1}]
    sums = [open_dataset("mnist", **each).checksum for each in options]  # type: ignore[arg-type]
    assert sums[0] == sums[1] and len(set(sums)) == 3 and len(sums[0]) == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_images": 0}, "max_images = 0"),
        ({"max_images": 5}, "max_images = 5.*10 classes"),
        ({"data_fraction": 0.0}, "data_fraction = 0"),
        ({"data_fraction": 1.1}, "data_fraction = 1.1"),
        ({"data_fraction": 0.01}, "2 training and 20 validation images.*data_fraction"),
        ({"val_fraction": 1.0}, "val_fraction = 1"),
        ({"val_fraction": 0.001}, "0 validation images"),
        ({"image_size": 0}, "image_size = 0"),
    ],
)
def test_numbers_that_leave_no_images_are_refused(
    mnist: Path, options: dict[str, float], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_dataset("mnist", **options)  # type: ignore[arg-type]


def test_too_few_images_call_for_more_where_no_option_limits_them(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat", "dog", "emu"], 2)
    with pytest.raises(UserError, match=r"0 validation images are too few.*add images"):
        open_dataset(f"folder:{tmp_path}")


def test_a_data_set_of_one_class_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["cat"], 3)
    with pytest.raises(UserError, match="1 class"):
        open_dataset(f"folder:{tmp_path}")


def test_images_are_resized_to_the_image_size(mnist: Path) -> None:
    data = open_dataset("mnist", image_size=14)
    for pool in (data.train, data.val, data.test()):
        assert next(pool.batches([torch.arange(3)])).shape == (3, 1, 14, 14)
    assert data.image_size == 14 and open_dataset("mnist").image_size == 28


def test_opening_decodes_no_image(folder: Path) -> None:
    damage(folder)
    data = open_dataset(f"folder:{folder}", image_size=16).to("cpu")
    assert (data.classes, data.image_size, data.mirrors) == (("cat", "dog", "emu"), 16, None)
    assert (data.train_count, data.val_count) == (24, 6)
    moved = data.normalized((0.5,) * 3, (0.25,) * 3)
    assert (moved.mean, moved.std) == ((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    "use",
    [
        lambda data: data.train,
        lambda data: data.mean,
        lambda data: data.std,
        Dataset.load,
    ],
)
def test_training_images_are_decoded_on_first_use(
    folder: Path, use: Callable[[Dataset], object]
) -> None:
    damage(folder / "train")
    data = open_dataset(f"folder:{folder}", image_size=16)
    assert len(data.val) == 6 and len(data.test()) == 3
    with pytest.raises(UserError, match=f"cannot read the image {folder}/train"):
        use(data)


@pytest.mark.parametrize("use", [lambda data: data.val, Dataset.load])
def test_validation_images_are_decoded_on_first_use(
    folder: Path, use: Callable[[Dataset], object]
) -> None:
    damage(folder / "val")
    data = open_dataset(f"folder:{folder}", image_size=16)
    assert len(data.train) == 24
    with pytest.raises(UserError, match=f"cannot read the image {folder}/val"):
        use(data)


def test_the_test_split_is_read_when_it_is_opened_and_not_before(folder: Path) -> None:
    damage(folder / "test")
    data = open_dataset(f"folder:{folder}", image_size=16)
    data.load()
    with pytest.raises(UserError, match=f"cannot read the image {folder}/test"):
        data.test()


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder with the classes of the tiny recipe's data, none of whose files is an image."""
    folder = write_folder(tmp_path / "damaged", train=40, test=8)
    damage(folder)
    return folder


def test_a_plan_finds_every_damaged_image(tiny: Tiny, damaged: Path) -> None:
    with pytest.raises(UserError, match=r"48 of 48 image files.*--skip-broken"):
        make_plan(load_recipe(str(tiny.recipe), {"data": f"folder:{damaged}"}))


def test_images_are_decoded_once(folder: Path) -> None:
    data = open_dataset(f"folder:{folder}", image_size=16)
    data.load()
    damage(folder)
    assert len(data.checksum) == 64 and len(data.mean) == 3
    assert data.train is data.train and data.val is data.val


def test_mean_and_std_are_measured_on_the_training_pixels(folder: Path) -> None:
    data = open_dataset(f"folder:{folder}", image_size=16)
    (images,) = data.train.batches([torch.arange(len(data.train))])
    pixels = images.double() / 255
    assert data.mean == pytest.approx(pixels.mean(dim=(0, 2, 3)).tolist())
    assert data.std == pytest.approx(pixels.std(dim=(0, 2, 3), correction=0).tolist())


def test_a_flat_channel_has_a_deviation_to_divide_by(monkeypatch: pytest.MonkeyPatch) -> None:
    images = Pixels(torch.full((20, 3, 4, 4), 51, dtype=torch.uint8), torch.arange(20) % 2)
    source = Source("flat", ("a", "b"), 4, images, lambda: images)
    monkeypatch.setattr("compress.data.open_dataset.open_source", lambda name: source)
    data = open_dataset("flat")
    assert data.mean == pytest.approx((0.2,) * 3) and data.std == pytest.approx((1 / 255,) * 3)


def test_normalized_changes_mean_and_std_alone(folder: Path) -> None:
    data = open_dataset(f"folder:{folder}", image_size=16)
    other = data.normalized((0.5,) * 3, (0.25,) * 3)
    assert other.checksum == data.checksum and other.classes == data.classes
    (batch,) = plain_batches(other, other.val, batch_size=6)
    (pixels,) = data.val.batches([torch.arange(6)])
    torch.testing.assert_close(batch.images, (pixels / 255 - 0.5) / 0.25)


def test_to_moves_all_pools_and_measures_before(folder: Path) -> None:
    data = open_dataset(f"folder:{folder}", image_size=16)
    moved = data.to("meta")
    for pool in (moved.train, moved.val, moved.test()):
        assert pool.targets.is_meta and next(pool.batches([torch.arange(2)])).is_meta
    assert (moved.mean, moved.std, moved.checksum) == (data.mean, data.std, data.checksum)


def test_images_decoded_during_inference_can_be_trained_on(folder: Path) -> None:
    data = open_dataset(f"folder:{folder}", image_size=16)
    with torch.inference_mode():
        assert len(list(plain_batches(data, data.val, batch_size=4))) == 2
    weight = torch.ones(3, 1, 1, requires_grad=True)
    for batch in plain_batches(data, data.train, batch_size=24):
        (batch.images * weight).sum().backward()
        assert bool(weight.grad.any()) and not batch.targets.is_inference()
