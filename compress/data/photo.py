"""Photos: decoded images of any size, and the squares that networks see of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

# A photo is decoded at a fraction of its size only if every crop still has so many times the pixels
# of its square along a side. Then crops differ from those of the whole file by about 1/255.
REDUCING_GAP = 2.0
# The smallest fraction at which JPEG decodes.
LARGEST_SCALE = 8
# The narrowest crop, as a ratio of width to height.
NARROWEST = 3 / 4
# Longer images are not resized as a whole before their middle is cropped.
LONGEST = 8


@dataclass(frozen=True)
class Photo:
    """A decoded image, upright.

    Args:
        pixels: uint8 (C, h, w), C = 3, or 1 for a grey one.
        size: height and width of the file's image; `pixels` have a `scale`-th of them, rounded up.
        scale: 1, 2, 4 or 8.
    """

    pixels: Tensor
    size: tuple[int, int]
    scale: int = 1


@dataclass(frozen=True)
class Framing:
    """The squares that are made of photos: it decides at which scale a photo is decoded.

    Args:
        side: side of the squares, in pixels.
        crop_ratio: side of the square at the centre, relative to the resized shorter side.
        least_area: fraction of a photo's area that the smallest random crop keeps.
    """

    side: int
    crop_ratio: float = 1.0
    least_area: float = 1.0

    def scale(self, height: int, width: int) -> int:
        """Return the largest scale, 1 to 8, that leaves enough pixels to all squares."""
        crop = math.sqrt(NARROWEST * self.least_area * height * width)
        available = min(crop, height, width) / (REDUCING_GAP * self.side)
        resized = min(height, width) / (REDUCING_GAP * resized_side(self.side, self.crop_ratio))
        exponent = math.floor(math.log2(max(1.0, min(available, resized))))
        return min(1 << exponent, LARGEST_SCALE)


def resized_side(side: int, crop_ratio: float) -> int:
    """Return the length to which the shorter side is resized before the centre is cropped."""
    return round(side / crop_ratio)


def crop_photo(photo: Photo, box: Sequence[int], side: int) -> Tensor:
    """Crop a box and resize it to a square, with antialiasing, as RandomResizedCrop does.

    Args:
        box: left, top, right, bottom, in pixels of the file's image.

    Returns:
        uint8 (C, side, side).
    """
    # torch does not resize to a single pixel.
    if photo.scale > 1 or side == 1:
        return _resample(photo, box, (side, side))
    left, top, right, bottom = box
    cropped: Tensor = F.resized_crop(
        photo.pixels, top, left, bottom - top, right - left, [side, side], antialias=True
    )
    return cropped


def fit_photo(photo: Photo, size: tuple[int, int], crop_ratio: float) -> Tensor:
    """Resize a photo until it covers `size` divided by `crop_ratio`, and crop the centre.

    For squares this is torchvision's Resize, with antialiasing, and CenterCrop.

    Args:
        size: height and width of the result.

    Returns:
        uint8 (C, height, width).
    """
    (height, width), (rows, columns) = photo.size, size
    down, across = _cover(photo.size, size, crop_ratio)
    short, long = min(height, width), max(height, width)
    if photo.scale == 1 and long <= LONGEST * short and min(size) > 1:
        resized = F.resize(photo.pixels, [down, across], antialias=True)
        fitted: Tensor = F.center_crop(resized, [rows, columns])
        return fitted
    # The same grid of pixels, of which only those of the centre are computed.
    return _resample(photo, center_box(photo.size, size, crop_ratio), size)


def center_box(
    image: tuple[int, int], size: tuple[int, int], crop_ratio: float
) -> tuple[float, float, float, float]:
    """Return the part of an image that `fit_photo` shows: left, top, right, bottom, in its pixels.

    Args:
        image: height and width of the image.
        size: height and width of the result.
    """
    (height, width), (rows, columns) = image, size
    down, across = _cover(image, size, crop_ratio)
    top, left = round((down - rows) / 2), round((across - columns) / 2)
    x, y = width / across, height / down
    return (left * x, top * y, (left + columns) * x, (top + rows) * y)


def _cover(image: tuple[int, int], size: tuple[int, int], crop_ratio: float) -> tuple[int, int]:
    """Return height and width to which an image is resized before its centre is cropped."""
    height, width = image
    down, across = (resized_side(side, crop_ratio) for side in size)
    if width * down < height * across:
        return across * height // width, across
    return down, down * width // height


def _resample(photo: Photo, box: Sequence[float], size: tuple[int, int]) -> Tensor:
    """Resize a box, whose edges may lie between pixels, with antialiasing; pixels outside of it
    have no part in that."""
    height, width = photo.pixels.shape[-2:]
    limits = (width, height, width, height)
    left, top, right, bottom = (
        min(edge / photo.scale, limit) for edge, limit in zip(box, limits, strict=True)
    )
    x, y = math.floor(left), math.floor(top)
    hull = photo.pixels[:, y : math.ceil(bottom), x : math.ceil(right)]
    image = F.to_pil_image(hull).resize(
        (size[1], size[0]),
        Image.Resampling.BILINEAR,
        box=(left - x, top - y, right - x, bottom - y),
    )
    resampled: Tensor = F.pil_to_tensor(image)
    return resampled


def is_grey(pixels: Tensor) -> bool:
    """Return True if all channels of pixels (…, C, H, W) are equal."""
    return torch.equal(pixels, pixels[..., :1, :, :].expand_as(pixels))


def to_luma(pixels: Tensor) -> Tensor:
    """Convert uint8 (…, C, H, W), C = 1 or 3, to grey (…, 1, H, W), by the rule of Pillow.

    Images whose channels are equal keep their values exactly.
    """
    if pixels.shape[-3] == 1:
        return pixels
    weights = torch.tensor([19595, 38470, 7471]).view(3, 1, 1)
    summed = (pixels.int() * weights).sum(-3, keepdim=True)
    return (summed + 0x8000 >> 16).to(torch.uint8)
