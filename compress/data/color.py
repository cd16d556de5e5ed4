"""Images of any mode to 8-bit RGB, upright."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

ORIENTATION = 0x0112

# Larger images are converted band by band, so that copies of them take little memory.
BAND_PIXELS = 2**24

# Possible values of white in images of 16 bits, which often hold 12, of 32-bit integers and of
# floats. Their files do not say which.
DEEP_WHITES = (4095.0, 65535.0)
WHITES = {
    "I;16": DEEP_WHITES,
    "I": (255.0, *DEEP_WHITES, 2.0**31 - 1),
    "F": (1.0, 255.0, 65535.0),
}


def convert_to_rgb(image: Image.Image, background: str) -> Image.Image:
    """Convert an image to 8-bit RGB, turned by its EXIF orientation.

    Deeper values are scaled to 8 bits; 16 bits whose values are all below 4,096 are taken for 12.
    Transparent parts are filled with `background`.
    """
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    deep = image.mode.startswith(("I", "F"))
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    boxes = _bands(image.size)
    white = _find_white(image, boxes) if deep else 255.0
    if len(boxes) == 1:
        return _to_rgb(image, background, white)
    converted = Image.new("RGB", image.size)
    for box in boxes:
        converted.paste(_to_rgb(image.crop(box), background, white), box)
    return converted


def _bands(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Return the boxes of bands that cover an image from top to bottom."""
    width, height = size
    rows = max(1, BAND_PIXELS // max(1, width))
    return [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]


def _to_rgb(image: Image.Image, background: str, white: float) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        scaled = (_read_deep(image) / white * 255).round().clamp(0, 255).to(torch.uint8)
        image = to_pil_image(scaled)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("RGB")


def _find_white(image: Image.Image, boxes: Iterable[tuple[int, int, int, int]]) -> float:
    """Return the value of white in an image of 16 or 32 bits: the first that no value exceeds."""
    brightest = max(float(_read_deep(image.crop(box)).max()) for box in boxes)
    # Some modes of 16 bits end in their order of bytes.
    return next((white for white in WHITES[image.mode[:4]] if brightest <= white), brightest)


def _read_deep(image: Image.Image) -> Tensor:
    values: Tensor = pil_to_tensor(image.convert("F")).nan_to_num(0.0, 0.0, 0.0)
    return values
