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
    """Draw a crop for each sample, a square image of `side` pixels.

    Distributed as in torchvision's RandomResizedCrop (Szegedy et al. 2015, arXiv:1409.4842): the
    fraction of the area is uniform within `area`, the aspect ratio is log-uniform, sides and
    corners are whole pixels. The first of ten attempts that fits is taken, else the whole image.

    Returns:
        Boxes x1 y1 x2 y2 in pixels, float32 (count, 4).
    """
    random = make_generator("crop", seed, view)
    boxes, fits = _draw_boxes(count, side, area, CROP_RATIO, side, random)
    return torch.where(fits[:, None], boxes, torch.tensor([0.0, 0.0, side, side]))


def draw_holes(count: int, side: int, probability: float, seed: int, view: int) -> Tensor:
    """Draw the part of each sample, a square image of `side` pixels, that is erased.

    Distributed as in torchvision's RandomErasing (Zhong et al. 2017, arXiv:1708.04896): 2 to 33 %
    of the area. The first of ten attempts that is smaller than the image both ways is taken, else
    none.

    Returns:
        Boxes x1 y1 x2 y2 in pixels, float32 (count, 4); all 0 where nothing is erased.
    """
    random = make_generator("erase", seed, view)
    boxes, fits = _draw_boxes(count, side, HOLE_AREA, HOLE_RATIO, side - 1, random)
    return boxes * (fits & (torch.rand(count, generator=random) < probability))[:, None]


def _draw_boxes(
    count: int,
    side: int,
    area: tuple[float, float],
    ratio: tuple[float, float],
    longest: int,
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw boxes in a square: each the first of ten attempts whose sides are 1 to `longest` pixels.

    Returns:
        The boxes, float32 (count, 4), and True where an attempt fits, bool (count,).
    """
    drawn = torch.rand(count, 4, ATTEMPTS, generator=random)
    areas = side * side * (area[0] + (area[1] - area[0]) * drawn[:, 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * drawn[:, 1])
    width, height = (areas * aspect).sqrt_().round_(), (areas / aspect).sqrt_().round_()
    fits = (width >= 1) & (width <= longest) & (height >= 1) & (height <= longest)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    width, height, across, down, fits = (
        values.gather(1, first).squeeze(1)
        for values in (width, height, drawn[:, 2], drawn[:, 3], fits)
    )
    left, top = (across * (side - width + 1)).floor_(), (down * (side - height + 1)).floor_()
    return torch.stack([left, top, left + width, top + height], dim=1), fits
