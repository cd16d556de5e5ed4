"""Random draws of a view, made ahead, on the CPU, from (seed, view) alone.

They are made on the CPU so that a view is the same on any device.
"""

import hashlib
import math

import torch
from torch import Tensor

# As in torchvision's RandomResizedCrop: attempts, and the ratio of width to height.
ATTEMPTS = 10
RATIO = (3 / 4, 4 / 3)
# As in torchvision's RandomErasing: fraction of the area, and the ratio, there of height to width.
HOLE = (0.02, 0.33)
HOLE_RATIO = (1 / 3.3, 1 / 0.3)


def derive_seed(*key: int | str) -> int:
    """Return a 63-bit seed that depends on every part of `key`: neighbouring seeds and views share
    nothing."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def make_generator(*key: int | str) -> torch.Generator:
    """Return a CPU generator for `key`, independent of the global one."""
    return torch.Generator().manual_seed(derive_seed(*key))


def draw_order(count: int, seed: int, view: int) -> Tensor:
    """Draw the order in which a view visits `count` samples: int64 (count,)."""
    return torch.randperm(count, generator=make_generator("order", seed, view))


def draw_flips(count: int, seed: int, view: int) -> Tensor:
    """Draw which samples a view mirrors, half of them: bool (count,)."""
    return torch.rand(count, generator=make_generator("flip", seed, view)) < 0.5


def draw_boxes(count: int, side: int, scale: tuple[float, float], seed: int, view: int) -> Tensor:
    """Draw a crop of a square of `side` pixels for each sample: float32 (count, 4), x1 y1 x2 y2 in
    pixels.

    Distributed as in torchvision's RandomResizedCrop (Szegedy et al. 2015, arXiv:1409.4842):
    `scale` is the range of the fraction of the area, the ratio is log-uniform, sides and corners
    are whole pixels. The first of ten attempts that fits is taken, else the whole image.
    """
    boxes, fits = _draw_boxes(count, side, scale, RATIO, side, make_generator("crop", seed, view))
    return torch.where(fits[:, None], boxes, torch.tensor([0.0, 0.0, side, side]))


def draw_holes(count: int, side: int, chance: float, seed: int, view: int) -> Tensor:
    """Draw the part of a square of `side` pixels that is erased in each sample.

    Distributed as in torchvision's RandomErasing with probability `chance` (Zhong et al. 2017,
    arXiv:1708.04896): 2 to 33 % of the area. The first of ten attempts that is smaller than the
    image both ways is taken, else none.

    Returns:
        float32 (count, 4), x1 y1 x2 y2 in pixels; all 0 where nothing is erased.
    """
    draw = make_generator("erase", seed, view)
    boxes, fits = _draw_boxes(count, side, HOLE, HOLE_RATIO, side - 1, draw)
    return boxes * (fits & (torch.rand(count, generator=draw) < chance))[:, None]


def _draw_boxes(
    count: int,
    side: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    most: int,
    draw: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw boxes in a square: each the first of ten attempts whose sides are 1 to `most` pixels.

    Returns:
        The boxes, float32 (count, 4); and True where an attempt has succeeded, bool (count,).
    """
    drawn = torch.rand(count, 4, ATTEMPTS, generator=draw)
    area = side * side * (scale[0] + (scale[1] - scale[0]) * drawn[:, 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * drawn[:, 1])
    width, height = (area * aspect).sqrt_().round_(), (area / aspect).sqrt_().round_()
    fits = (width >= 1) & (width <= most) & (height >= 1) & (height <= most)
    first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
    width, height, across, down, fits = (
        values.gather(1, first).squeeze(1)
        for values in (width, height, drawn[:, 2], drawn[:, 3], fits)
    )
    left, top = (across * (side - width + 1)).floor_(), (down * (side - height + 1)).floor_()
    return torch.stack([left, top, left + width, top + height], dim=1), fits
