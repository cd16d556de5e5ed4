"""Image files of any kind, found and decoded to 8-bit RGB."""

from __future__ import annotations

import glob
import io
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from compress.runtime.errors import UserError

# What is read, and the suffixes by which a folder's images are known. Not every format Pillow has:
# some of those hand the file to another program.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".pbm",
    ".pgm",
    ".ppm",
    ".jp2",
)

# The brightest value that an integer or a float image may mean: nothing in such a file tells which.
RANGES = {"I": (255.0, 65535.0, 2.0**31 - 1), "F": (1.0, 255.0, 65535.0)}


def find_images(patterns: Iterable[str]) -> list[str]:
    """The images that `patterns` name: files, folders (all below them, sorted), globs with `**`, or
    "-".

    A pattern that leads to nothing stays in the list as it is, so that it is reported when its turn
    comes to be read, and the others go on. Hidden files are passed over, unless named.
    """
    found: list[str] = []
    for pattern in patterns:
        try:
            found += _matches(pattern) or [pattern]
        except OSError:  # such as a name that is too long: reading it will say so
            found.append(pattern)
    return found


def read_image(source: str | Path | BinaryIO, background: str = "black") -> Image.Image:
    """Decode an image of any mode and size to 8-bit RGB, turned as its EXIF orientation says.

    Deeper images are scaled to 8 bits, not clipped; of an animation, the first frame counts.

    Args:
        source: a path, "-" for standard input, or an open binary file.
        background: what shows through transparent places; black, as behind white-on-black training
            images.

    Raises:
        UserError: there is no such file, it is no image, damaged, or too large; the text is the
            bare reason.
    """
    with one_line_reasons():
        if source == "-":
            return _decode(sys.stdin.buffer, background)
        if not isinstance(source, str | Path):
            return _decode(source, background)
        path = Path(source)
        if path.is_dir():
            empty = next(_images_below(path), None) is None
            raise UserError("no images in this folder" if empty else "a folder, not an image")
        with path.open("rb") as file:
            return _decode(file, background)


def _matches(pattern: str) -> list[str]:
    if Path(pattern).is_dir():
        return [str(path) for path in sorted(_images_below(Path(pattern)))]
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [pattern]
    return sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207


def _images_below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in SUFFIXES and not hidden and path.is_file():
            yield path


def _decode(file: BinaryIO, background: str) -> Image.Image:
    if not file.seekable():
        file = io.BytesIO(file.read())
    if file.seek(0, os.SEEK_END) == 0:
        raise UserError("an empty file")
    with Image.open(file, formats=FORMATS) as image:
        image.load()
        return to_rgb(image, background)


def to_rgb(image: Image.Image, background: str) -> Image.Image:
    """8-bit RGB, turned as EXIF says, deeper images scaled, transparent places filled with
    `background`."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A 16- or 32-bit image in 8 bits, by the range of "I;16", or for "I" and "F" the first that
    fits."""
    values = pil_to_tensor(image.convert("F")).nan_to_num(0.0, 0.0, 0.0)
    brightest = float(values.max())
    ranges = (65535.0,) if image.mode.startswith("I;16") else RANGES[image.mode]
    scale = next((limit for limit in ranges if brightest <= limit), brightest)
    scaled: Image.Image = to_pil_image((values / scale * 255).round().clamp(0, 255).to(torch.uint8))
    return scaled


@contextmanager
def one_line_reasons() -> Iterator[None]:
    """Turn whatever an image may bring about into a `UserError` of one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UserError:
        raise
    except Exception as error:  # a damaged file raises a dozen types in Pillow
        raise UserError(_reason(error)) from error


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return "no such file"
        case UnidentifiedImageError():
            return f"not an image that can be read ({', '.join(FORMATS)})"
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return f"too large, more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        case OSError(strerror=str(text)):
            return text.lower()
    text = str(error).strip() or type(error).__name__
    return f"damaged, or cut short ({text.splitlines()[0][:160]})"
