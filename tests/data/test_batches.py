import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from compress.data.batches import Batch, _cropped, plain_batches, training_batches
from compress.data.dataset import Dataset
from compress.data.pool import MemoryPool
from compress.data.random_views import view_boxes, view_holes
from compress.recipe.schema import Augment
from compress.runtime.errors import UserError

NOTHING = Augment(crop=None, flip=False)
EVERYTHING = Augment(mixup=0.2, cutmix=1.0, mix=0.8, erase=0.5)


def small(channels: int = 1, count: int = 50, side: int = 12) -> Dataset:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(
        0, 256, (count, channels, side, side), generator=random, dtype=torch.uint8
    )
    pool = MemoryPool(pixels, torch.arange(count) % 5, side)
    mean, std = ((0.3,) * 3, (0.4,) * 3) if channels == 1 else ((0.3, 0.4, 0.5), (0.2, 0.3, 0.4))
    return Dataset("small", tuple("abcde"), side, mean, std, pool, pool, lambda: pool, "")


def normalised(data: Dataset, pixels: Tensor) -> Tensor:
    mean, std = torch.tensor(data.mean)[:, None, None], torch.tensor(data.std)[:, None, None]
    return (pixels.float() / 255 - mean) / std


def digest(view: int = 3) -> str:
    """Of all the bits of a view with everything on."""
    seen = hashlib.sha256()
    for images, targets, rows, start, *_ in training_batches(
        small(), EVERYTHING, seed=1, view=view, batch=16
    ):
        for tensor in (images, targets, rows):
            seen.update(tensor.contiguous().numpy().data)
        seen.update(str(start).encode())
    return seen.hexdigest()


@pytest.mark.parametrize("channels", [1, 3])
def test_plain_batches_are_the_images_in_order(channels: int) -> None:
    data = small(channels)
    batches = list(plain_batches(data, data.val, batch=20))
    assert [(batch.start, len(batch.rows)) for batch in batches] == [(0, 20), (20, 20), (40, 10)]
    images = torch.cat([batch.images for batch in batches])
    pixels = next(data.val.batches([torch.arange(50)]))
    torch.testing.assert_close(images, normalised(data, pixels))
    assert batches[0].images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.cat([batch.targets for batch in batches]).argmax(1), data.val.targets)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_with_nothing_on_is_a_permutation(channels: int) -> None:
    data = small(channels)
    batches = list(training_batches(data, NOTHING, seed=0, view=0, batch=16, drop_last=False))
    rows = torch.cat([batch.rows for batch in batches])
    assert [batch.start for batch in batches] == [0, 16, 32, 48]
    assert {batch.view for batch in batches} == {0}
    assert sorted(rows.tolist()) == list(range(50)) and rows.tolist() != list(range(50))
    pixels = next(data.train.batches([rows]))
    torch.testing.assert_close(
        torch.cat([batch.images for batch in batches]), normalised(data, pixels)
    )


@pytest.mark.parametrize(
    "augment", [EVERYTHING, Augment(None, mixup=1.0), Augment(cutmix=1.0), NOTHING]
)
def test_the_parts_of_a_batch_are_together_the_whole_one_bit_for_bit(augment: Augment) -> None:
    def view(part: tuple[int, int] = (0, 1)) -> list[Batch]:
        return list(training_batches(small(), augment, seed=1, view=3, batch=16, part=part))

    for whole, *parts in zip(view(), *(view((number, 3)) for number in range(3)), strict=True):
        for field in ("images", "targets", "rows"):
            assert torch.equal(
                getattr(whole, field), torch.cat([getattr(part, field) for part in parts])
            )
        assert [part.start - whole.start for part in parts] == [0, 5, 10]
        assert all(len(part.rows) + part.elsewhere == 16 for part in parts) and whole.elsewhere == 0


def test_the_parts_of_a_pool_are_together_the_whole_of_it_even_if_some_are_empty() -> None:
    data = small(count=7)
    parts = [
        list(plain_batches(data, data.val, batch=2, part=(number, 10))) for number in range(10)
    ]
    assert [row for part in parts for batch in part for row in batch.rows.tolist()] == list(
        range(7)
    )
    assert not all(parts)


def test_the_last_batch_is_dropped_but_never_the_only_one() -> None:
    sizes = [len(b.rows) for b in training_batches(small(), NOTHING, seed=0, view=0, batch=16)]
    assert sizes == [16, 16, 16]
    assert [len(b.rows) for b in training_batches(small(), NOTHING, seed=0, view=0, batch=64)] == [
        50
    ]


def test_a_view_is_a_pure_function_of_seed_and_view() -> None:
    before = torch.get_rng_state()
    first = digest()
    assert torch.equal(before, torch.get_rng_state())
    digest(view=4)
    torch.manual_seed(99)
    assert digest() == first != digest(view=4)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_batches as t;"
    )
    program += "t.digest(7); print(t.digest())"
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == first


def test_a_sample_is_augmented_the_same_whatever_the_batch_size() -> None:
    def by_row(batch: int) -> Tensor:
        batches = list(
            training_batches(
                small(), Augment(erase=0.5), seed=0, view=1, batch=batch, drop_last=False
            )
        )
        rows = torch.cat([b.rows for b in batches])
        return torch.cat([b.images for b in batches])[rows.argsort()]

    torch.testing.assert_close(by_row(7), by_row(50))


def test_half_of_the_images_are_mirrored() -> None:
    data = small(3)
    (batch,) = training_batches(data, Augment(crop=None), seed=0, view=0, batch=50)
    images = normalised(data, next(data.train.batches([batch.rows])))
    same = torch.isclose(batch.images, images, atol=1e-5).flatten(1).all(1)
    mirrored = torch.isclose(batch.images, images.flip(3), atol=1e-5).flatten(1).all(1)
    assert (same ^ mirrored).all() and 10 < mirrored.sum() < 40


def kolmogorov_smirnov(a: Tensor, b: Tensor) -> float:
    """The largest distance between two samples' cumulative distributions."""
    at = torch.cat([a, b]).sort().values
    below = [torch.searchsorted(x.sort().values, at, right=True) / len(x) for x in (a, b)]
    return float((below[0] - below[1]).abs().max())


@pytest.mark.parametrize(("side", "scale"), [(28, (0.6, 1.0)), (32, (0.08, 1.0))])
def test_crops_are_distributed_as_torchvisions(side: int, scale: tuple[float, float]) -> None:
    count = 4000
    x1, y1, x2, y2 = view_boxes(count, side, scale, seed=0, view=0).T
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= side).all() and (y2 <= side).all()
    ours = (x1, y1, x2 - x1, y2 - y1)
    reference = v2.RandomResizedCrop(side, scale=scale)
    image = torch.zeros(1, side, side)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        drawn = [reference.make_params([image]) for _ in range(count)]
    theirs = torch.tensor([[p["left"], p["top"], p["width"], p["height"]] for p in drawn]).float().T
    assert_distributed_alike(ours, theirs)


def assert_distributed_alike(ours: Sequence[Tensor], theirs: Tensor) -> None:
    """Boxes as left, top, width and height, each (N,)."""
    bound = (
        1.95 * (1 / len(ours[0]) + 1 / len(theirs[0])) ** 0.5
    )  # a false alarm once in a thousand
    measures = [
        lambda box: box[2] * box[3],
        lambda box: box[2] / box[3],
        lambda box: box[0],
        lambda box: box[1],
        lambda box: box[0] + box[2],
        lambda box: box[1] - box[0],
    ]
    for measure in measures:
        assert kolmogorov_smirnov(measure(ours), measure(theirs)) < bound


@pytest.mark.parametrize("side", [12, 28])
def test_holes_are_distributed_as_torchvisions(side: int) -> None:
    count = 4000
    holes = view_holes(count, side, 0.7, seed=0, view=0)
    x1, y1, x2, y2 = holes[holes[:, 2] > 0].T
    assert 0.66 < len(x1) / count < 0.74
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= side).all() and (y2 <= side).all()
    eraser = v2.RandomErasing(p=1.0, value=0)
    image = torch.ones(1, side, side)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        drawn = [eraser.make_params([image]) for _ in range(count)]
    theirs = torch.tensor([[p["j"], p["i"], p["w"], p["h"]] for p in drawn]).float().T
    assert_distributed_alike((x1, y1, x2 - x1, y2 - y1), theirs)


def test_what_is_erased_is_the_mean_colour_and_all_else_stays() -> None:
    data = small(3)
    (batch,) = training_batches(data, Augment(None, False, erase=0.6), seed=0, view=5, batch=50)
    images = normalised(data, next(data.train.batches([batch.rows])))
    holes = view_holes(50, data.size, 0.6, seed=0, view=5)[batch.rows].int().tolist()
    assert 15 < sum(right > 0 for _, _, right, _ in holes) < 45
    for image, (left, top, right, bottom) in zip(images, holes, strict=True):
        image[:, top:bottom, left:right] = 0
    torch.testing.assert_close(batch.images, images)


def test_a_crop_is_bilinear() -> None:
    smooth = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    pixels = (F.interpolate(smooth, (28, 28), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)
    for left, top, right, bottom in [(0, 0, 28, 28), (3, 5, 25, 24), (0, 4, 20, 28)]:
        ours = _cropped(pixels, torch.tensor([[left, top, right, bottom]], dtype=torch.float32))
        theirs = v2.functional.resized_crop(
            pixels.float(), top, left, bottom - top, right - left, [28, 28], antialias=True
        )
        inside = (
            ...,
            slice(1, -1),
            slice(1, -1),
        )  # at its border torchvision's crop cannot see what lies outside
        torch.testing.assert_close(ours[inside], theirs[inside], atol=1e-2, rtol=0)
        torch.testing.assert_close(ours, theirs, atol=12, rtol=0)


def test_mixing_keeps_targets_distributions_and_matches_images() -> None:
    data = replace(small(), mean=(0.0,) * 3, std=(1.0,) * 3)
    flat = (
        torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(50, 1, 12, 12).contiguous()
    )
    data = replace(data, train=MemoryPool(flat, torch.arange(50) % 5, 12))
    for kind in (Augment(None, False, mixup=0.5), Augment(None, False, cutmix=1.0)):
        mixed = 0
        for batch in training_batches(data, kind, seed=0, view=0, batch=10):
            torch.testing.assert_close(batch.targets.sum(1), torch.ones(10))
            share = (batch.targets * F.one_hot(batch.rows % 5, 5)).sum(1)
            partner = batch.rows.roll(1)
            different = batch.rows % 5 != partner % 5
            expected = share * batch.rows + (1 - share) * partner
            means = batch.images.mean(dim=(1, 2, 3)) * 255
            torch.testing.assert_close(means[different], expected[different], atol=1e-3, rtol=1e-3)
            mixed += int((share[different] < 0.999).any())
        assert mixed >= 3


def test_mix_is_the_probability_that_a_batch_is_mixed() -> None:
    data = small(count=2000, side=2)
    batches = training_batches(
        data, Augment(None, False, mixup=1.0, mix=0.3), seed=0, view=0, batch=10
    )
    mixed = [bool((batch.targets.max(1).values < 1).any()) for batch in batches]
    assert 0.2 < sum(mixed) / len(mixed) < 0.4


@pytest.mark.parametrize(
    "options",
    [
        {"crop": (0.0, 1.0)},
        {"crop": (0.9, 0.5)},
        {"mixup": -1.0},
        {"cutmix": float("nan")},
        {"mix": 2.0},
        {"erase": -0.1},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        Augment(**options)  # type: ignore[arg-type]
