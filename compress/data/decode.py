"""Image files: find them, and decode any format and mode to 8-bit RGB."""

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

from compress.data.formats import FORMATS, SUFFIXES
from compress.runtime.errors import UserError

# Possible values of white in images of 32-bit integers and floats. Their files do not say which.
RANGES = {"I": (255.0, 65535.0, 2.0**31 - 1), "F": (1.0, 255.0, 65535.0)}


def find_images(patterns: Iterable[str]) -> list[str]:
    """Find images by patterns: files, folders, globs with ``**``, or "-" for standard input.

    A folder stands for all images below it, sorted, without hidden ones. A pattern that matches
    nothing stays in the list, so that the error comes when it is read and other images are not
    affected.
    """
    found: list[str] = []
    for pattern in patterns:
        try:
            found += _match_images(pattern) or [pattern]
        # The name is too long, for example. Reading it reports that.
        except OSError:
            found.append(pattern)
    return found


def read_image(source: str | Path | BinaryIO, background: str = "black") -> Image.Image:
    """Decode an image of any mode and size to 8-bit RGB, turned by its EXIF orientation.

    Deeper images are scaled to 8 bits, not clipped. Of an animation, the first frame is decoded.

    Args:
        source: a path, "-" for standard input, or an open binary file.
        background: colour behind transparent parts; by default black, like the background of
            white-on-black training images.

    Raises:
        UserError: the file is missing, not an image, damaged or too large; the message is the
            reason alone, without the file's name.
    """
    with translate_errors():
        if source == "-":
            return _decode(sys.stdin.buffer, background)
        if not isinstance(source, str | Path):
            return _decode(source, background)
        path = Path(source)
        if path.is_dir():
            empty = next(_list_images(path), None) is None
            raise UserError("no images in this folder" if empty else "a folder, not an image")
        with path.open("rb") as file:
            return _decode(file, background)


def _match_images(pattern: str) -> list[str]:
    if Path(pattern).is_dir():
        return [str(path) for path in sorted(_list_images(Path(pattern)))]
    if Path(pattern).exists() or not glob.has_magic(pattern):
        return [pattern]
    return sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())  # noqa: PTH207


def _list_images(folder: Path) -> Iterator[Path]:
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
        return convert_to_rgb(image, background)


def convert_to_rgb(image: Image.Image, background: str) -> Image.Image:
    """Convert an image to 8-bit RGB, turned by its EXIF orientation.

    Deeper values are scaled to 8 bits, and transparent parts are filled with `background`.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _scale_to_8_bits(image)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image.convert("RGB")


def _scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale an image of 16 or 32 bits to 8 bits.

    The modes "I" and "F" take the first of their ranges that holds all values.
    """
    values = pil_to_tensor(image.convert("F")).nan_to_num(0.0, 0.0, 0.0)
    brightest = float(values.max())
    ranges = (65535.0,) if image.mode.startswith("I;16") else RANGES[image.mode]
    white = next((white for white in ranges if brightest <= white), brightest)
    scaled: Image.Image = to_pil_image((values / white * 255).round().clamp(0, 255).to(torch.uint8))
    return scaled


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise a `UserError` of one line for any error in decoding an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except UserError:
        raise
    # For damaged files, Pillow raises errors of a dozen types.
    except Exception as error:
        raise UserError(describe_error(error)) from error


def describe_error(error: Exception) -> str:
    """Return what an error in decoding an image means for its file."""
    match error:
        case FileNotFoundError():
            return "no such file"
        case UnidentifiedImageError():
            return "not an image that can be read"
        case Image.DecompressionBombError() | Image.DecompressionBombWarning():
            return f"too large, more than {Image.MAX_IMAGE_PIXELS:,} pixels"
        case OSError(strerror=str(text)):
            return text.lower()
    text = str(error).strip() or type(error).__name__
    return f"damaged, or cut short ({text.splitlines()[0][:160]})"
