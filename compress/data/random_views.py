"""Random draws of views, made ahead of the batches.

A *view* is the whole training set under one drawing of the augmentation: an order of the samples,
and for each a crop, a flip and an erased part. It depends on (seed, view) alone. The draws are made
on the CPU, so that a view is the same on all devices.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

# Attempts and aspect ratios of a crop, as in torchvision's RandomResizedCrop.
ATTEMPTS = 10
CROP_RATIO = (3 / 4, 4 / 3)
# Fractions of the area and ratios of width to height of an erased part, as in torchvision's
# RandomErasing, whose ratio is that of height to width.
HOLE_AREA = (0.02, 0.33)
HOLE_RATIO = (1 / 3.3, 1 / 0.3)


def derive_seed(*key: int | str) -> int:
    """Derive a 63-bit seed from all parts of `key`, unrelated to those of similar keys."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def make_generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator seeded by `key`; the global one is not used."""
    return torch.Generator().manual_seed(derive_seed(*key))


def draw_order(count: int, seed: int, view: int, chances: Tensor | None = None) -> Tensor:
    """Draw the order in which a view visits `count` samples: int64 (count,).

    Args:
        chances: relative chance of each sample, float (count,); samples are then drawn with
            replacement.
    """
    random = make_generator("order", seed, view)
    if chances is not None:
        return torch.multinomial(chances, count, replacement=True, generator=random)
    return torch.randperm(count, generator=random)


def draw_flips(count: int, seed: int, view: int) -> Tensor:
    """Draw the samples that a view mirrors, each with probability 0.5: bool (count,)."""
    return torch.rand(count, generator=make_generator("flip", seed, view)) < 0.5


def draw_crops(count: int, side: int, area: tuple[float, float], seed: int, view: int) -> Tensor:
    """Draw a crop for each sample, a square image of `side` pixels; see `place_crops`.

    Returns:
        Boxes x1 y1 x2 y2 in pixels, float32 (count, 4).
    """
    return place_crops(draw_numbers(count, seed, view), side, side, area)


def draw_numbers(count: int, seed: int, view: int) -> Tensor:
    """Draw the random numbers of `place_crops`, whatever the sizes: float32 (count, 4, 10)."""
    return torch.rand(count, 4, ATTEMPTS, generator=make_generator("crop", seed, view))


def place_crops(
    numbers: Tensor, height: int | Tensor, width: int | Tensor, area: tuple[float, float]
) -> Tensor:
    """Place a crop in each image, of one size or of sizes of its own.

    Distributed as in torchvision's RandomResizedCrop (Szegedy et al. 2015, arXiv:1409.4842): the
    fraction of the area is uniform within `area`, the aspect ratio is log-uniform, sides and
    corners are whole pixels. The first of ten attempts that fits is taken, else the largest box at
    the centre whose aspect ratio is allowed.

    Args:
        numbers: uniform on [0, 1), (n, 4, 10).
        height, width: in pixels; a tensor is (n, 1).

    Returns:
        Boxes x1 y1 x2 y2 in pixels, of the type of `numbers`, (n, 4).
    """
    boxes, fits = _place_boxes(numbers, height, width, area, CROP_RATIO, (height, width))
    return torch.where(fits[:, None], boxes, _central_crops(numbers, height, width))


def _central_crops(numbers: Tensor, height: int | Tensor, width: int | Tensor) -> Tensor:
    rows, columns = numbers.new_ones(len(numbers), 1) * height, numbers.new_ones(1, 1) * width
    across = torch.minimum(columns, (rows * CROP_RATIO[1]).round())
    down = torch.minimum(rows, (columns / CROP_RATIO[0]).round())
    left, top = ((columns - across) / 2).floor(), ((rows - down) / 2).floor()
    return torch.cat([left, top, left + across, top + down], dim=1)


def draw_holes(count: int, side: int, probability: float, seed: int, view: int) -> Tensor:
    """Draw the part of each sample, a square image of `side` pixels, that is erased.

    Distributed as in torchvision's RandomErasing (Zhong et al. 2017, arXiv:1708.04896): 2 to 33 %
    of the area. The first of ten attempts that is smaller than the image both ways is taken, else
    none.

    Returns:
        Boxes x1 y1 x2 y2 in pixels, float32 (count, 4); all 0 where nothing is erased.
    """
    random = make_generator("erase", seed, view)
    numbers = torch.rand(count, 4, ATTEMPTS, generator=random)
    longest = (side - 1, side - 1)
    boxes, fits = _place_boxes(numbers, side, side, HOLE_AREA, HOLE_RATIO, longest)
    return boxes * (fits & (torch.rand(count, generator=random) < probability))[:, None]


def _place_boxes(
    numbers: Tensor,
    height: int | Tensor,
    width: int | Tensor,
    area: tuple[float, float],
    ratio: tuple[float, float],
    longest: tuple[int | Tensor, int | Tensor],
) -> tuple[Tensor, Tensor]:
    """Place boxes: each the first of ten attempts whose sides are 1 to `longest` pixels.

    Returns:
        The boxes, (n, 4), and True where an attempt fits, bool (n,).
    """
    areas = height * width * (area[0] + (area[1] - area[0]) * numbers[:, 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * numbers[:, 1])
    across, down = (areas * aspect).sqrt_().round_(), (areas / aspect).sqrt_().round_()
    fits = (across >= 1) & (across <= longest[1]) & (down >= 1) & (down <= longest[0])
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    across, down, right, below, fits = (
        values.gather(1, first) for values in (across, down, numbers[:, 2], numbers[:, 3], fits)
    )
    left, top = (right * (width - across + 1)).floor_(), (below * (height - down + 1)).floor_()
    return torch.cat([left, top, left + across, top + down], dim=1), fits.squeeze(1)
