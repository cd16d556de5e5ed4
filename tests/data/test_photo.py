"""Photos are cropped and resized as by torchvision's transforms of the original file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photo_files import draw_photo, write_photos
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from compress.data.batches import plain_batches, training_batches
from compress.data.dataset import Dataset
from compress.data.decode import read_photo
from compress.data.open_dataset import open_dataset
from compress.data.photo import Framing, Photo, crop_photo, fit_photo
from compress.data.photo_view import draw_photo_view
from compress.data.photos import FilePhotos, MemoryPhotos
from compress.data.pool import PhotoPool, open_pool
from compress.data.random_views import draw_numbers, place_crops
from compress.data.source import Files, Images, Pixels
from compress.recipe.stages import Augment
from compress.training.classification import Classification

SIDE = 48
# Photos that are decoded whole, at a half, a quarter and an eighth.
SIZES = [(96, 130), (150, 110), (300, 420), (430, 300), (700, 620), (650, 900), (1300, 1100)]
CROPS = Augment(crop=(0.6, 1.0), flip=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("photos")
    names = write_photos(folder, SIZES)
    return Files(folder, names, torch.zeros(len(names), dtype=torch.int64))


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], None]:
    """Let torchvision's RandomResizedCrop draw the given numbers, (4, 10)."""

    def give(drawn: Tensor) -> None:
        def attempts(kinds: tuple[int, int]) -> Iterator[float]:
            return (float(drawn[kind, n]) for n in range(10) for kind in kinds)

        uniform, integers = attempts((0, 1)), _first_fit(drawn)

        class Empty:
            def uniform_(self, low: float, high: float) -> Tensor:
                return torch.tensor([low + (high - low) * next(uniform)], dtype=torch.float64)

        monkeypatch.setattr("torch.empty", lambda *_: Empty())
        monkeypatch.setattr(
            "torch.randint",
            lambda low, high, size: torch.tensor([int(next(integers) * (high - low)) + low]),
        )

    return give


def _first_fit(drawn: Tensor) -> Iterator[float]:
    """Yield the numbers of the rows and columns of the attempt that RandomResizedCrop takes.

    All attempts have the same ones here.
    """
    yield float(drawn[3, 0])
    yield float(drawn[2, 0])


@pytest.mark.parametrize("size", [(96, 130), (400, 100), (100, 400), (333, 500), (50, 2000)])
@pytest.mark.parametrize("area", [(0.6, 1.0), (0.08, 1.0)])
def test_crops_are_placed_as_by_torchvision(
    size: tuple[int, int], area: tuple[float, float], numbers: Callable[[Tensor], None]
) -> None:
    height, width = size
    drawn = draw_numbers(40, 0, 0).double()
    drawn[:, 2:] = drawn[:, 2:, :1]
    ours = place_crops(drawn, torch.tensor([[height]]), torch.tensor([[width]]), area).tolist()
    reference, image = v2.RandomResizedCrop(SIDE, scale=area), torch.zeros(1, height, width)
    for mine, each in zip(ours, drawn, strict=True):
        numbers(each)
        box = reference.make_params([image])
        left, top = box["left"], box["top"]
        assert mine == [left, top, left + box["width"], top + box["height"]]


@pytest.mark.parametrize("memory_limit_bytes", [0, 2**30])
@pytest.mark.parametrize("side", [SIDE, 96])
def test_crops_are_those_of_the_original_file(
    photos: Files, memory_limit_bytes: int, side: int
) -> None:
    framing = Framing(side, least_area=0.6)
    pool = open_pool(photos, framing, crops=True, memory_limit_bytes=memory_limit_bytes)
    assert isinstance(pool, PhotoPool)
    assert isinstance(pool.photos, MemoryPhotos if memory_limit_bytes else FilePhotos)
    scales = {pool.photos.read(row).scale for row in range(len(pool))}
    assert scales == ({1, 2, 4, 8} if side == SIDE else {1, 2, 4})
    for view in range(3):
        drawn = draw_photo_view(framing, len(pool), CROPS, "#ffffff", 0, view)
        (squares,) = pool.views([torch.arange(len(pool))], drawn)
        assert drawn.numbers is not None
        for row, square in enumerate(squares):
            with Image.open(photos.root / photos.names[row]) as file:
                original = F.pil_to_tensor(file.convert("RGB"))
            height, width = (torch.tensor([[extent]]) for extent in original.shape[1:])
            (box,) = place_crops(drawn.numbers[[row]].double(), height, width, (0.6, 1.0)).int()
            left, top, right, bottom = box.tolist()
            theirs = F.resized_crop(
                original, top, left, bottom - top, right - left, [side, side], antialias=True
            )
            difference = (square.float() - theirs.float()).abs().mean()
            assert difference <= 2, (photos.names[row], view)
            if pool.photos.read(row).scale == 1:
                assert torch.equal(square, theirs)


@pytest.mark.parametrize("crop_ratio", [1.0, 0.875])
@pytest.mark.parametrize("side", [SIDE, 96, 200])
def test_evaluation_is_torchvisions_resize_and_centre_crop(
    photos: Files, side: int, crop_ratio: float
) -> None:
    (squares,) = open_pool(photos, Framing(side, crop_ratio)).batches([torch.arange(len(SIZES))])
    usual = v2.Compose([v2.Resize(round(side / crop_ratio)), v2.CenterCrop(side)])
    for square, name in zip(squares, photos.names, strict=True):
        with Image.open(photos.root / name) as file:
            theirs = F.pil_to_tensor(usual(file.convert("RGB")))
        assert (square.float() - theirs.float()).abs().mean() <= 2, name


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
    st.floats(0.1, 1),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 3]),
    st.booleans(),
)
def test_squares_of_any_photo_have_their_size_and_stay_flat(
    size: tuple[int, int],
    wanted: tuple[int, int],
    ratio: float,
    scale: int,
    channels: int,
    last: bool,
) -> None:
    height, width = (-(-extent // scale) for extent in size)
    pixels = torch.full((channels, height, width), 77, dtype=torch.uint8)
    if last:
        pixels = torch.full((height, width, channels), 77, dtype=torch.uint8).permute(2, 0, 1)
    photo = Photo(pixels, size, scale)
    fitted = fit_photo(photo, wanted, ratio)
    assert fitted.shape == (channels, *wanted) and bool((fitted == 77).all())
    numbers = draw_numbers(1, size[0], size[1]).double()
    sides = torch.tensor([size])
    (box,) = place_crops(numbers, sides[:, :1], sides[:, 1:], (0.08, 1.0)).long().tolist()
    assert 0 <= box[0] < box[2] <= size[1] and 0 <= box[1] < box[3] <= size[0]
    cropped = crop_photo(photo, box, wanted[0])
    assert cropped.shape == (channels, wanted[0], wanted[0]) and bool((cropped == 77).all())


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 9000),
    st.integers(1, 9000),
    st.integers(4, 512),
    st.floats(0.1, 1),
    st.floats(0.01, 1),
)
def test_a_photo_is_decoded_with_enough_pixels_for_every_crop(
    height: int, width: int, side: int, crop_ratio: float, least_area: float
) -> None:
    scale = Framing(side, crop_ratio, least_area).scale(height, width)
    assert scale in (1, 2, 4, 8)
    narrowest = (0.75 * least_area * height * width) ** 0.5
    if scale > 1:
        assert min(narrowest, height, width) / scale >= 2 * side * 0.999
        assert min(height, width) / scale >= 2 * round(side / crop_ratio) * 0.999


def test_a_large_jpeg_with_an_orientation_is_decoded_small_and_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    draw_photo(600, 800).save(tmp_path / "turned.jpg", exif=exif)
    photo = read_photo(tmp_path / "turned.jpg", framing=Framing(100))
    assert (photo.size, photo.scale, tuple(photo.pixels.shape)) == ((800, 600), 2, (3, 400, 300))


def test_extreme_photos_take_little_memory() -> None:
    line = Photo(torch.full((3, 1, 3_000_000), 9, dtype=torch.uint8), (1, 3_000_000))
    assert fit_photo(line, (224, 224), 0.875).shape == (3, 224, 224)


def test_pixels_larger_than_the_images_are_cropped_at_their_own_size() -> None:
    """Photos in an array, not square."""
    pixels = torch.stack([F.pil_to_tensor(draw_photo(60, 90, seed)) for seed in range(4)])
    images = _pixels(pixels)
    pool = open_pool(images, Framing(24), crops=True)
    assert isinstance(pool, PhotoPool)
    drawn = draw_photo_view(pool.framing, 4, CROPS, "#ffffff", 0, 0)
    (squares,) = pool.views([torch.arange(4)], drawn)
    assert drawn.numbers is not None
    sizes = torch.tensor([[60, 90]])
    boxes = place_crops(drawn.numbers.double(), sizes[:, :1], sizes[:, 1:], (0.6, 1.0)).int()
    for square, original, (left, top, right, bottom) in zip(
        squares, pixels, boxes.tolist(), strict=True
    ):
        theirs = F.resized_crop(original, top, left, bottom - top, right - left, [24, 24])
        assert torch.equal(square, theirs)


def _pixels(pixels: Tensor) -> Images:
    return Pixels(pixels, torch.zeros(len(pixels), dtype=torch.int64))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folder")
    for label in "ab":
        write_photos(folder / label, [(60, 80), (50, 70), (90, 64)] * 5)
    return folder


def view_of(data: Dataset, augment: Augment, **options: Any) -> Tensor:
    """Return the images of a view, in the order of their rows."""
    encode = Classification(2).encode_targets
    options = {"seed": 3, "view": 1, "drop_last": False} | options
    batches = list(training_batches(data, augment, encode_targets=encode, **options))
    rows = torch.cat([batch.rows for batch in batches])
    return torch.cat([batch.images for batch in batches])[rows.argsort()]


OPERATIONS = [
    Augment(auto_augment="trivial"),
    Augment(auto_augment="rand", magnitude=20),
    Augment(color_jitter=0.4),
    Augment(auto_augment="trivial", color_jitter=0.4, crop=None, flip=False),
]


@pytest.mark.parametrize("augment", OPERATIONS)
def test_operations_depend_on_seed_view_and_photo_alone(folder: Path, augment: Augment) -> None:
    data = open_dataset(f"folder:{folder}", image_size=32).normalized((0.5,) * 3, (0.5,) * 3)
    before = torch.get_rng_state()
    first = view_of(data, augment, batch_size=8)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, view_of(data, augment, batch_size=5))
    assert not torch.equal(first, view_of(data, augment, batch_size=8, view=2))
    plain = view_of(data, Augment(crop=augment.crop, flip=augment.flip), batch_size=8)
    assert (first - plain).flatten(1).abs().mean(1).gt(0.01).float().mean() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("augment", [CROPS, OPERATIONS[0]])
@pytest.mark.parametrize("workers", [0, 2])
def test_views_are_the_same_from_memory_from_files_and_in_workers(
    folder: Path, augment: Augment, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_dataset(f"folder:{folder}", image_size=16).normalized((0.5,) * 3, (0.5,) * 3)
    expected = view_of(data, augment, batch_size=8)
    streamed = data.to("cpu")

    def stream(images: Images, framing: Framing, **options: Any) -> Any:
        return open_pool(images, framing, **options, memory_limit_bytes=0, workers=workers)

    monkeypatch.setattr("compress.data.dataset.open_pool", stream)
    assert isinstance(streamed.train, PhotoPool) and isinstance(streamed.train.photos, FilePhotos)
    assert torch.equal(view_of(streamed, augment, batch_size=8), expected)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", OPERATIONS)
def test_small_images_in_memory_can_be_operated_on(channels: int, augment: Augment) -> None:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, channels, 20, 20), generator=random, dtype=torch.uint8)
    images = _pixels(pixels)
    data = Dataset("small", ("a", "b"), 20, images, images, lambda: images, ((0.5,) * 3,) * 2)
    data = data.for_channels([channels])
    seen = view_of(data, augment, batch_size=6)
    assert seen.shape == (12, channels, 20, 20)
    assert torch.equal(seen, view_of(data, augment, batch_size=12))


def test_uncovered_parts_get_the_background(folder: Path) -> None:
    data = open_dataset(f"folder:{folder}", image_size=32, background="#ff0000")
    assert data.background == "#ff0000"
    data = data.normalized((0.0,) * 3, (1.0,) * 3)
    images = view_of(data, Augment(auto_augment="rand", magnitude=30), batch_size=8)
    red = (images[:, 0] > 0.99) & (images[:, 1:].amax(1) < 0.01)
    assert red.flatten(1).any(1).sum() > 5


def test_crop_ratio_is_that_of_photos_for_files_that_are_larger(folder: Path) -> None:
    name = f"folder:{folder}"
    assert open_dataset(name, image_size=32).crop_ratio == 0.875
    assert open_dataset(name, image_size=60).crop_ratio == 1
    assert open_dataset(name, image_size=32, crop_ratio=0.5).crop_ratio == 0.5
    assert open_dataset("fashion-mnist", image_size=14).crop_ratio == 1


def test_the_centre_is_evaluated(tmp_path: Path) -> None:
    image = np.zeros((80, 80, 3), np.uint8)
    image[20:60, 20:60] = 255
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(10):
            Image.fromarray(image).save(tmp_path / label / f"{number}.png")
    data = open_dataset(f"folder:{tmp_path}", image_size=20, crop_ratio=0.5)
    data = data.normalized((0.0,) * 3, (1.0,) * 3)
    for pool in (data.train, data.val, data.test()):
        batch = next(plain_batches(data, pool, batch_size=2))
        assert batch.images[..., 1:-1, 1:-1].min() == 1
