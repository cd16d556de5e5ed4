"""How images become batches: cropped, flipped, normalised, mixed, a whole batch at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align
from torchvision.transforms import v2

from compress.data.dataset import Dataset
from compress.data.pool import Pool
from compress.data.random_views import seed_of, view_boxes, view_flips, view_holes, view_order
from compress.recipe.schema import Augment
from compress.runtime.device import to_device


class Batch(NamedTuple):
    """`images` float32 (B, 3, S, S), normalised, channels last; `targets` float32 (B, classes), each a
    distribution; `rows` int64 (B,), the samples' places in their pool; `start`, the batch's first place in
    its view's order; `view`, the number of that view, -1 for images shown as they are; `elsewhere`, how many
    more images the whole batch has, of which these are one process's part."""

    images: Tensor
    targets: Tensor
    rows: Tensor
    start: int
    view: int = -1
    elsewhere: int = 0


def share(count: int, part: tuple[int, int]) -> tuple[int, int]:
    """Where the part begins and where it ends of `count` things; (1, 3) is the second of three parts."""
    number, parts = part
    return count * number // parts, count * (number + 1) // parts


def training_batches(
    data: Dataset,
    augment: Augment,
    *,
    seed: int,
    view: int,
    batch: int,
    drop_last: bool = True,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """One augmented view of ``data.train``, in batches of `batch` (a smaller pool is one batch), `part` of each.

    The view is a pure function of (seed, view): its order, each sample's crop, flip and erased part, each batch's
    mixing. It is made at ``data.size``, whatever size a network wants, so that a teacher and a student of
    different sizes see the same view. The global random state is left as it was.
    """
    count = len(data.train)
    order = torch.split(view_order(count, seed, view), min(batch, count))
    if drop_last and len(order[-1]) < len(order[0]):
        order = order[:-1]
    boxes = None if augment.crop is None else view_boxes(count, data.size, augment.crop, seed, view)
    flips = view_flips(count, seed, view) if augment.flip else None
    holes = (
        view_holes(count, data.size, augment.erase_prob, seed, view) if augment.erase_prob else None
    )
    mixers = _mixers(augment)
    bounds = [share(len(rows), part) for rows in order]
    # torchvision mixes an image with the one before it, which for a part's first is another part's: -1 is the last
    extra = int(bool(mixers) and part[1] > 1)
    parts = [
        rows[torch.arange(begin - extra, end)]
        for rows, (begin, end) in zip(order, bounds, strict=True)
    ]
    start = 0
    for number, (rows, pixels) in enumerate(zip(parts, data.train.batches(parts), strict=True)):
        if flips is not None:
            pixels = _flipped(pixels, flips[rows])
        images = pixels.float() if boxes is None else _cropped(pixels, boxes[rows])
        images = _normalised(images, data)
        if holes is not None:
            images = _erased(images, holes[rows])
        rows = to_device(rows, images.device)
        targets = _one_hot(data, data.train, rows)
        if mixers:
            images, targets = _mixed(
                images, targets, mixers, augment.mix_prob, seed_of("mix", seed, view, number)
            )
        images, targets, rows = images[extra:], targets[extra:], rows[extra:]
        whole = len(order[number])
        yield Batch(
            _finished(images), targets, rows, start + bounds[number][0], view, whole - len(rows)
        )
        start += whole


def plain_batches(
    data: Dataset, pool: Pool, *, batch: int, part: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Every image of `part` of `pool`, a pool of `data`, as it is and in order, the last batch perhaps smaller."""
    start, end = share(len(pool), part)
    order = [rows for rows in torch.split(torch.arange(start, end), batch) if len(rows)]
    for rows, pixels in zip(order, pool.batches(order), strict=True):
        images = _normalised(pixels.float(), data)
        rows = to_device(rows, images.device)
        yield Batch(_finished(images), _one_hot(data, pool, rows), rows, start)
        start += len(rows)


def _flipped(pixels: Tensor, flips: Tensor) -> Tensor:
    chosen = to_device(flips, pixels.device)[:, None, None, None]
    return torch.where(chosen, pixels.flip(3), pixels)


def _cropped(pixels: Tensor, boxes: Tensor) -> Tensor:
    """Crop boxes (B, 4) and scale them back to the images' side; a crop never shrinks, so one sample a
    pixel is bilinear interpolation to the letter."""
    numbers = torch.arange(len(boxes), dtype=boxes.dtype)[:, None]
    regions = to_device(torch.cat([numbers, boxes], dim=1), pixels.device)
    images: Tensor = roi_align(
        pixels.float(), regions, pixels.shape[-2:], sampling_ratio=1, aligned=True
    )
    return images


def _normalised(images: Tensor, data: Dataset) -> Tensor:
    """In place, from values of 0 to 255; a grey image needs the first channel's numbers only."""
    mean = torch.tensor(data.mean[: images.shape[1]])[:, None, None]
    std = torch.tensor(data.std[: images.shape[1]])[:, None, None]
    gain, shift = 1 / (255 * std), -mean / std
    return images.mul_(to_device(gain, images.device)).add_(to_device(shift, images.device))


def _erased(images: Tensor, holes: Tensor) -> Tensor:
    """In place, the inside of boxes (B, 4) in whole pixels to 0, which is the mean."""
    holes = to_device(holes, images.device)
    place = torch.arange(images.shape[-1], device=images.device)
    across, down = ((place >= holes[:, i, None]) & (place < holes[:, i + 2, None]) for i in (0, 1))
    return images.masked_fill_(down[:, None, :, None] & across[:, None, None, :], 0.0)


def _one_hot(data: Dataset, pool: Pool, rows: Tensor) -> Tensor:
    return F.one_hot(pool.targets[rows], len(data.classes)).float()


def _mixers(augment: Augment) -> list[v2.Transform]:
    mixers = [v2.MixUp(alpha=augment.mixup)] if augment.mixup > 0 else []
    return mixers + ([v2.CutMix(alpha=augment.cutmix)] if augment.cutmix > 0 else [])


def _mixed(
    images: Tensor, targets: Tensor, mixers: list[v2.Transform], probability: float, seed: int
) -> tuple[Tensor, Tensor]:
    # torchvision draws from the CPU's global generator; torch.manual_seed would touch the GPUs' as well
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        chance, which = torch.rand(2).tolist()
        if chance < probability:
            images, targets = mixers[int(which * len(mixers))](images, targets)
    return images, targets


def _finished(images: Tensor) -> Tensor:
    """Grey repeated to three channels, channels last."""
    return images.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
