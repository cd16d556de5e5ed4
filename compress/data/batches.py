"""Batches: images cropped, flipped, normalized, erased and mixed, a whole batch at a time."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import roi_align
from torchvision.transforms import v2

from compress.data.dataset import Dataset
from compress.data.masks import crop_masks
from compress.data.photo_view import draw_photo_view, make_recolor
from compress.data.pool import MemoryPool, Pool
from compress.data.random_views import (
    derive_seed,
    draw_crops,
    draw_flips,
    draw_holes,
    draw_order,
)
from compress.data.source import IGNORE
from compress.recipe.stages import Augment
from compress.runtime.device import to_device

# Images that are scored at once, at most; and pixels of them, which large images reach first.
MOST_SCORED, SCORED_PIXELS = 500, 500 * 64**2


class Batch(NamedTuple):
    """A batch of images, or one process's shard of it.

    Args:
        images: float32 (B, C, S, S), normalized, channels last; C is 3, or 1 for grey networks.
        targets: class numbers, int64 (B,), or masks, int64 (B, S, S); in training batches the
            task's encoding of them, as float32 (B, classes).
        rows: the images' rows in their pool, int64 (B,).
        start: position of the first image in the order of the view, or in the pool.
        view: number of the view; -1 for images without augmentation.
        elsewhere: number of images of the batch in other shards.
    """

    images: Tensor
    targets: Tensor
    rows: Tensor
    start: int
    view: int = -1
    elsewhere: int = 0


def shard_range(count: int, shard: tuple[int, int]) -> tuple[int, int]:
    """Return the start and the end of a shard of a range of `count`.

    Args:
        shard: its index, and the number of shards.

    Example:
        >>> shard_range(9, (1, 3))
        (3, 6)
    """
    index, shards = shard
    return count * index // shards, count * (index + 1) // shards


def training_batches(
    data: Dataset,
    augment: Augment,
    *,
    encode_targets: Callable[[Tensor], Tensor],
    seed: int,
    view: int,
    batch_size: int,
    drop_last: bool = True,
    shard: tuple[int, int] = (0, 1),
    chances: Tensor | None = None,
) -> Iterator[Batch]:
    """Yield one augmented *view* of the training images, batch by batch.

    A view is the whole training set under one drawing of the augmentation. It is a pure function of
    (seed, view): the order, each sample's crop, flip and erased part, each batch's mixing. Its
    images have the data's size, so that a teacher and a student of different sizes see the same
    view. The global random state does not change.

    Args:
        encode_targets: encodes class numbers, int64 (B,), as targets that can be mixed, float32
            (B, classes); a task's.
        batch_size: images in a batch of all shards; a smaller data set is one batch.
        drop_last: leave out the last batch if it is smaller than the others.
        shard: index and number of shards; each batch is this shard of the whole one.
        chances: relative chance of each image, float (N,): a view is then drawn with replacement.
    """
    count, size = len(data.train), data.image_size
    order = torch.split(draw_order(count, seed, view, chances), min(batch_size, count))
    if drop_last and len(order[-1]) < len(order[0]):
        order = order[:-1]
    holes = None
    if augment.erase_prob:
        holes = draw_holes(count, size, augment.erase_prob, seed, view)
    mixers = _make_mixers(augment)
    bounds = [shard_range(len(rows), shard) for rows in order]
    # torchvision mixes each image with the one before it. The first image of a shard needs the last
    # one of the shard before, or of the batch: row -1.
    extra = int(bool(mixers) and shard[1] > 1)
    shards = [
        rows[torch.arange(begin - extra, end)]
        for rows, (begin, end) in zip(order, bounds, strict=True)
    ]
    start = 0
    cropped = _crop_and_flip(data, augment, shards, seed, view)
    for number, (rows, (images, labels)) in enumerate(zip(shards, cropped, strict=True)):
        images = _normalize(images, data)
        if holes is not None:
            images = _erase(images, holes[rows], 0.0)
            labels = _erase(labels, holes[rows], IGNORE) if labels.dim() > 1 else labels
        rows = to_device(rows, images.device)
        targets = encode_targets(labels)
        if mixers:
            mix_seed = derive_seed("mix", seed, view, number)
            images, targets = _mix(images, targets, mixers, augment.mix_prob, mix_seed)
        images, targets, rows = images[extra:], targets[extra:], rows[extra:]
        total = len(order[number])
        first = start + bounds[number][0]
        yield Batch(_widen(images, data.channels), targets, rows, first, view, total - len(rows))
        start += total


def _crop_and_flip(
    data: Dataset, augment: Augment, shards: list[Tensor], seed: int, view: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images, float32 (B, C, S, S), values from 0 to 255, and labels of each shard's rows.

    Masks move with their images; colours change in images alone.
    """
    pool, count, size = data.train, len(data.train), data.image_size
    flips = draw_flips(count, seed, view) if augment.flip else None
    if isinstance(pool, MemoryPool) and (pool.masks is not None or not augment.operates):
        # Small images of one size are cropped a whole batch at a time, after they are mirrored.
        boxes = None if augment.crop is None else draw_crops(count, size, augment.crop, seed, view)
        recolor = make_recolor(augment, data.background, seed, view)
        for rows, pixels in zip(shards, pool.batches(shards), strict=True):
            labels = pool.labels(to_device(rows, pixels.device))
            if flips is not None:
                pixels = _flip(pixels, flips[rows])
                labels = _flip(labels, flips[rows]) if labels.dim() > 1 else labels
            images = pixels.float() if boxes is None else _crop(pixels, boxes[rows])
            if boxes is not None and labels.dim() > 1:
                labels = crop_masks(labels, boxes[rows], (size, size))
            yield (images if recolor is None else recolor(images, rows)), labels
        return
    photos = pool.as_photos() if isinstance(pool, MemoryPool) else pool
    drawn = draw_photo_view(photos.framing, count, augment, data.background, seed, view)
    for rows, pixels in zip(shards, photos.views(shards, drawn), strict=True):
        images = (pixels if flips is None else _flip(pixels, flips[rows])).float()
        yield images, pool.labels(to_device(rows, images.device))


def scored_at_once(image_size: int, batch_size: int = 1) -> int:
    """Return how many images of this side go through a network at once while it does not train.

    Args:
        batch_size: images that it trains on at once, which need more memory.

    Example:
        >>> [scored_at_once(side) for side in (28, 64, 224)]
        [500, 500, 40]
    """
    return min(MOST_SCORED, max(batch_size, SCORED_PIXELS // image_size**2, 1))


def plain_batches(
    data: Dataset,
    pool: Pool,
    *,
    batch_size: int | None = None,
    shard: tuple[int, int] = (0, 1),
    every: int = 1,
) -> Iterator[Batch]:
    """Yield the images of a pool in order, normalized and without augmentation.

    Args:
        pool: a pool of `data`.
        batch_size: images in a batch; the last one may be smaller. As many as are scored at once if
            left out.
        shard: index and number of shards; this shard of the pool is yielded.
        every: yield one image of so many.
    """
    batch_size = batch_size or scored_at_once(data.image_size)
    chosen = torch.arange(0, len(pool), every)
    start, end = shard_range(len(chosen), shard)
    order = [rows for rows in torch.split(chosen[start:end], batch_size) if len(rows)]
    for rows, pixels in zip(order, pool.batches(order), strict=True):
        images = _normalize(pixels.float(), data)
        rows = to_device(rows, images.device)
        yield Batch(_widen(images, data.channels), pool.labels(rows), rows, start)
        start += len(rows)


def _flip(pixels: Tensor, flips: Tensor) -> Tensor:
    """Mirror the chosen images (B, C, S, S) or masks (B, S, S)."""
    chosen = to_device(flips, pixels.device).view(-1, *(1,) * (pixels.dim() - 1))
    return torch.where(chosen, pixels.flip(-1), pixels)


def _crop(pixels: Tensor, boxes: Tensor) -> Tensor:
    """Crop boxes (B, 4) and resize them to the size of the images.

    Crops are only enlarged, so that one sample for each pixel is exact bilinear interpolation.
    """
    numbers = torch.arange(len(boxes), dtype=boxes.dtype)[:, None]
    regions = to_device(torch.cat([numbers, boxes], dim=1), pixels.device)
    images: Tensor = roi_align(
        pixels.float(), regions, pixels.shape[-2:], sampling_ratio=1, aligned=True
    )
    return images


def _normalize(images: Tensor, data: Dataset) -> Tensor:
    """Normalize values from 0 to 255, in place; grey images get the channels that need it."""
    if images.shape[1] < data.channels and len(set(zip(data.mean, data.std, strict=True))) > 1:
        images = images.repeat(1, data.channels, 1, 1)
    mean = torch.tensor(data.mean[: images.shape[1]])[:, None, None]
    std = torch.tensor(data.std[: images.shape[1]])[:, None, None]
    gain, shift = 1 / (255 * std), -mean / std
    return images.mul_(to_device(gain, images.device)).add_(to_device(shift, images.device))


def _erase(images: Tensor, holes: Tensor, value: float) -> Tensor:
    """Set the inside of boxes (B, 4), in whole pixels, to a value, in place.

    Args:
        images: (B, C, S, S), whose mean is 0, or masks (B, S, S).
    """
    holes = to_device(holes, images.device)
    pixel = torch.arange(images.shape[-1], device=images.device)
    across, down = ((pixel >= holes[:, i, None]) & (pixel < holes[:, i + 2, None]) for i in (0, 1))
    inside = down[:, :, None] & across[:, None, :]
    return images.masked_fill_(inside if images.dim() == 3 else inside[:, None], value)


def _make_mixers(augment: Augment) -> list[v2.Transform]:
    mixers = [v2.MixUp(alpha=augment.mixup)] if augment.mixup > 0 else []
    return mixers + ([v2.CutMix(alpha=augment.cutmix)] if augment.cutmix > 0 else [])


def _mix(
    images: Tensor, targets: Tensor, mixers: list[v2.Transform], probability: float, seed: int
) -> tuple[Tensor, Tensor]:
    # torchvision draws from the CPU's global generator. torch.manual_seed would seed the GPUs' too.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        chance, which = torch.rand(2).tolist()
        if chance < probability:
            images, targets = mixers[int(which * len(mixers))](images, targets)
    return images, targets


def _widen(images: Tensor, channels: int) -> Tensor:
    """Repeat a grey channel as often as needed, and lay images out channels last."""
    return images.expand(-1, channels, -1, -1).contiguous(memory_format=torch.channels_last)
