"""Everything random about a view of the training set: drawn ahead, on the CPU, by (seed, view) alone.

The CPU draws so that a view is the same whatever device its batches are made on.
"""

import hashlib
import math

import torch
from torch import Tensor

ATTEMPTS = 10  # as many as torchvision's RandomResizedCrop makes
RATIO = (3 / 4, 4 / 3)  # of width to height, its default
HOLE = (0.02, 0.33)  # share of the area that torchvision's RandomErasing takes
HOLE_RATIO = (1 / 3.3, 1 / 0.3)  # of width to height; torchvision's is of height to width


def seed_of(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of `key`, so that neighbouring seeds and views share
    nothing."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator of its own for `key`; the global one is left alone."""
    return torch.Generator().manual_seed(seed_of(*key))


def view_order(count: int, seed: int, view: int) -> Tensor:
    """The order in which a view visits `count` samples: int64 (count,)."""
    return torch.randperm(count, generator=generator("order", seed, view))


def view_flips(count: int, seed: int, view: int) -> Tensor:
    """Which samples a view mirrors, half of them: bool (count,)."""
    return torch.rand(count, generator=generator("flip", seed, view)) < 0.5


def view_boxes(count: int, side: int, scale: tuple[float, float], seed: int, view: int) -> Tensor:
    """The square of `side` pixels cropped at random for each sample: float32 (count, 4), x1 y1 x2 y2 in
    pixels.

    Distributed as torchvision's RandomResizedCrop draws them (Szegedy et al. 2015, arXiv 1409.4842):
    `scale` is the range of the share of the area, the ratio is log-uniform, sides and corners are whole
    pixels; the first of ten attempts that fits is taken, else the whole image.
    """
    boxes, fits = _boxes(count, side, scale, RATIO, side, generator("crop", seed, view))
    return torch.where(fits[:, None], boxes, torch.tensor([0.0, 0.0, side, side]))


def view_holes(count: int, side: int, chance: float, seed: int, view: int) -> Tensor:
    """The part of the square of `side` pixels that is erased in each sample: float32 (count, 4), x1 y1 x2 y2 in
    pixels, all 0 where nothing is.

    Distributed as torchvision's RandomErasing draws them with probability `chance` (Zhong et al. 2017, arXiv
    1708.04896): 2 to 33 % of the area; the first of ten attempts that is smaller than the image both ways, else none.
    """
    draw = generator("erase", seed, view)
    boxes, fits = _boxes(count, side, HOLE, HOLE_RATIO, side - 1, draw)
    return boxes * (fits & (torch.rand(count, generator=draw) < chance))[:, None]


def _boxes(
    count: int,
    side: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    most: int,
    draw: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Boxes in a square, float32 (count, 4): each the first of ten attempts whose sides are 1 to `most` pixels; and
    whether there was one, bool (count,)."""
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
