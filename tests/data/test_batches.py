"""Batches: pixels as from torchvision's transforms, and the same in shards and other processes."""

import hashlib
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from compress.data.batches import Batch, _crop, plain_batches, shard_range, training_batches
from compress.data.dataset import Dataset
from compress.data.random_views import draw_holes
from compress.data.source import Pixels
from compress.recipe.stages import Augment
from compress.training.classification import Classification

CLASSES = 5
PLAIN = Augment(crop=None, flip=False)
EVERYTHING = Augment(mixup=0.2, cutmix=1.0, mix_prob=0.8, erase_prob=0.5)


def small(channels: int = 1, count: int = 50, side: int = 12) -> Dataset:
    random = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    pixels = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    images = Pixels(pixels, torch.arange(count) % CLASSES)
    mean, std = ((0.3,) * 3, (0.4,) * 3) if channels == 1 else ((0.3, 0.4, 0.5), (0.2, 0.3, 0.4))
    return Dataset("small", tuple("abcde"), side, images, images, lambda: images, (mean, std))


def view_of(data: Dataset, augment: Augment, **options: Any) -> Iterator[Batch]:
    options = {"seed": 0, "view": 0} | options
    encode = Classification(CLASSES).encode_targets
    return training_batches(data, augment, encode_targets=encode, **options)


def normalize(data: Dataset, pixels: Tensor) -> Tensor:
    mean, std = torch.tensor(data.mean)[:, None, None], torch.tensor(data.std)[:, None, None]
    return (pixels.float() / 255 - mean) / std


def digest(view: int = 3) -> str:
    """Return a hash of all bits of a view with every augmentation."""
    seen = hashlib.sha256()
    for batch in view_of(small(), EVERYTHING, seed=1, view=view, batch_size=16):
        for tensor in (batch.images, batch.targets, batch.rows):
            seen.update(tensor.contiguous().numpy().data)
        seen.update(str(batch.start).encode())
    return seen.hexdigest()


@pytest.mark.parametrize("channels", [1, 3])
def test_plain_batches_are_the_images_in_order(channels: int) -> None:
    data = small(channels)
    batches = list(plain_batches(data, data.val, batch_size=20))
    assert [(batch.start, len(batch.rows)) for batch in batches] == [(0, 20), (20, 20), (40, 10)]
    images = torch.cat([batch.images for batch in batches])
    pixels = next(data.val.batches([torch.arange(50)]))
    torch.testing.assert_close(images, normalize(data, pixels).expand(-1, 3, -1, -1))
    assert batches[0].images.is_contiguous(memory_format=torch.channels_last)
    assert {batch.view for batch in batches} == {-1}


def test_plain_batches_have_class_numbers_and_training_batches_distributions() -> None:
    data = small()
    targets = torch.cat([batch.targets for batch in plain_batches(data, data.val, batch_size=20)])
    assert targets.dtype == torch.int64 and torch.equal(targets, data.val.targets)
    (batch,) = view_of(data, PLAIN, batch_size=50)
    assert batch.targets.dtype == torch.float32 and batch.targets.shape == (50, CLASSES)
    assert torch.equal(batch.targets, F.one_hot(data.train.targets[batch.rows], CLASSES).float())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_without_augmentation_is_a_permutation(channels: int) -> None:
    data = small(channels)
    batches = list(view_of(data, PLAIN, view=6, batch_size=16, drop_last=False))
    rows = torch.cat([batch.rows for batch in batches])
    assert [batch.start for batch in batches] == [0, 16, 32, 48]
    assert {batch.view for batch in batches} == {6}
    assert sorted(rows.tolist()) == list(range(50)) and rows.tolist() != list(range(50))
    pixels = next(data.train.batches([rows]))
    images = torch.cat([batch.images for batch in batches])
    torch.testing.assert_close(images, normalize(data, pixels).expand(-1, 3, -1, -1))


def test_shards_cover_a_range_evenly() -> None:
    ranges = [shard_range(10, (index, 4)) for index in range(4)]
    assert ranges == [(0, 2), (2, 5), (5, 7), (7, 10)]


@pytest.mark.parametrize(
    "augment", [EVERYTHING, Augment(crop=None, mixup=1.0), Augment(cutmix=1.0), PLAIN]
)
def test_shards_of_a_training_batch_make_the_whole_batch_bit_for_bit(augment: Augment) -> None:
    def view(shard: tuple[int, int] = (0, 1)) -> list[Batch]:
        return list(view_of(small(), augment, seed=1, view=3, batch_size=16, shard=shard))

    for whole, *shards in zip(view(), *(view((index, 3)) for index in range(3)), strict=True):
        for field in ("images", "targets", "rows"):
            joined = torch.cat([getattr(shard, field) for shard in shards])
            assert torch.equal(getattr(whole, field), joined), field
        assert [shard.start - whole.start for shard in shards] == [0, 5, 10]
        assert [len(shard.rows) + shard.elsewhere for shard in shards] == [16] * 3
        assert whole.elsewhere == 0


def test_shards_of_a_pool_make_the_whole_pool_and_may_be_empty() -> None:
    data = small(count=7)
    shards = [
        list(plain_batches(data, data.val, batch_size=2, shard=(index, 10))) for index in range(10)
    ]
    rows = [row for shard in shards for batch in shard for row in batch.rows.tolist()]
    assert rows == list(range(7)) and shards.count([]) == 3


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "sizes"),
    [
        (16, True, [16, 16, 16]),
        (16, False, [16, 16, 16, 2]),
        (64, True, [50]),
        (25, True, [25] * 2),
    ],
)
def test_a_smaller_last_batch_is_dropped_unless_it_is_the_only_one(
    batch_size: int, drop_last: bool, sizes: list[int]
) -> None:
    batches = view_of(small(), PLAIN, batch_size=batch_size, drop_last=drop_last)
    assert [len(batch.rows) for batch in batches] == sizes


def test_a_view_is_a_pure_function_of_seed_and_view() -> None:
    before = torch.get_rng_state()
    first = digest()
    assert torch.equal(before, torch.get_rng_state())
    digest(view=4)
    torch.manual_seed(99)
    assert digest() == first != digest(view=4)


@pytest.mark.slow
def test_a_view_is_the_same_in_another_process() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as other:
        other.submit(digest, 7).result()
        assert other.submit(digest).result() == digest()


def test_augmentation_of_a_sample_does_not_depend_on_the_batch_size() -> None:
    def images_by_row(batch_size: int) -> Tensor:
        augment = Augment(erase_prob=0.5)
        batches = list(view_of(small(), augment, view=1, batch_size=batch_size, drop_last=False))
        rows = torch.cat([batch.rows for batch in batches])
        return torch.cat([batch.images for batch in batches])[rows.argsort()]

    torch.testing.assert_close(images_by_row(7), images_by_row(50))


def test_half_of_the_images_are_mirrored() -> None:
    data = small(3)
    (batch,) = view_of(data, Augment(crop=None), batch_size=50)
    images = normalize(data, next(data.train.batches([batch.rows])))
    same = torch.isclose(batch.images, images, atol=1e-5).flatten(1).all(1)
    mirrored = torch.isclose(batch.images, images.flip(3), atol=1e-5).flatten(1).all(1)
    assert (same ^ mirrored).all() and 10 < mirrored.sum() < 40


def test_an_erased_part_becomes_the_mean_colour() -> None:
    data = small(3)
    augment = Augment(crop=None, flip=False, erase_prob=0.6)
    (batch,) = view_of(data, augment, view=5, batch_size=50)
    images = normalize(data, next(data.train.batches([batch.rows])))
    holes = draw_holes(50, data.image_size, 0.6, seed=0, view=5)[batch.rows].int().tolist()
    assert 15 < sum(right > 0 for _, _, right, _ in holes) < 45
    for image, (left, top, right, bottom) in zip(images, holes, strict=True):
        image[:, top:bottom, left:right] = 0
    torch.testing.assert_close(batch.images, images)


def test_a_crop_is_resized_bilinearly() -> None:
    smooth = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    pixels = (F.interpolate(smooth, (28, 28), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    for left, top, right, bottom in [(0, 0, 28, 28), (3, 5, 25, 24), (0, 4, 20, 28)]:
        ours = _crop(pixels, torch.tensor([[left, top, right, bottom]], dtype=torch.float32))
        theirs = v2.functional.resized_crop(
            pixels.float(), top, left, bottom - top, right - left, [28, 28], antialias=True
        )
        # At the border, torchvision interpolates without the pixels outside the crop.
        inside = (..., slice(1, -1), slice(1, -1))
        torch.testing.assert_close(ours[inside], theirs[inside], atol=1e-2, rtol=0)
        torch.testing.assert_close(ours, theirs, atol=12, rtol=0)


@pytest.mark.parametrize("kind", [{"mixup": 0.5}, {"cutmix": 1.0}])
def test_targets_are_mixed_in_proportion_to_images(kind: dict[str, float]) -> None:
    grey = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(50, 1, 12, 12)
    images = Pixels(grey.contiguous(), torch.arange(50) % CLASSES)
    data = replace(small(), train_images=images).normalized((0.0,) * 3, (1.0,) * 3)
    mixed = 0
    for batch in view_of(data, Augment(crop=None, flip=False, **kind), batch_size=10):
        torch.testing.assert_close(batch.targets.sum(1), torch.ones(10))
        own = (batch.targets * F.one_hot(batch.rows % CLASSES, CLASSES)).sum(1)
        partner = batch.rows.roll(1)
        different = batch.rows % CLASSES != partner % CLASSES
        expected = own * batch.rows + (1 - own) * partner
        means = batch.images.mean(dim=(1, 2, 3)) * 255
        torch.testing.assert_close(means[different], expected[different], atol=1e-3, rtol=1e-3)
        mixed += int((own[different] < 0.999).any())
    assert mixed >= 3


@pytest.mark.parametrize(
    ("mix_prob", "low", "high"), [(0.0, 0.0, 0.0), (0.3, 0.2, 0.4), (1.0, 0.9, 1.0)]
)
def test_mix_prob_is_the_fraction_of_mixed_batches(
    mix_prob: float, low: float, high: float
) -> None:
    data = small(count=2000, side=2)
    augment = Augment(crop=None, flip=False, mixup=1.0, mix_prob=mix_prob)
    mixed = [
        bool((batch.targets.max(1).values < 1).any())
        for batch in view_of(data, augment, batch_size=10)
    ]
    assert low <= sum(mixed) / len(mixed) <= high


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop", (0.0, 1.0)),
        ("crop", (0.9, 0.5)),
        ("mixup", -1.0),
        ("cutmix", float("nan")),
        ("mix_prob", 2.0),
        ("erase_prob", -0.1),
    ],
)
def test_augmentation_out_of_range_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        Augment(**{key: value})
