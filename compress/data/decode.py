"""Images: find files, and decode any format and mode to 8-bit RGB or grey, upright."""

from __future__ import annotations

import glob
import io
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import decode_jpeg
from torchvision.transforms.functional import to_pil_image

from compress.data.arrays import image_to_pixels
from compress.data.color import ORIENTATION, convert_to_rgb
from compress.data.formats import FORMATS, SUFFIXES
from compress.data.photo import Framing, Photo, to_luma
from compress.runtime.errors import UserError, describe_type
from compress.runtime.quiet import no_warnings, silent_stderr

# A path, "-" for standard input, an open binary file; or an image in memory: Pillow's, or an array
# or tensor (H, W), (H, W, C) or (C, H, W). C is 1, 3, or 4 with alpha.
ImageSource = str | Path | BinaryIO | Image.Image | Tensor | np.ndarray[Any, Any]

# Files whose Pillow image decodes at a fraction of its size.
JPEGS = ("JPEG", "MPO")

# A JPEG's sides are no longer. Pillow has a limit for the pixels, and needs memory for every row.
MAX_SIDE = 65_535
MAX_STREAM_BYTES = 2**28


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


def read_photo(
    source: ImageSource,
    background: str = "white",
    *,
    grey: bool = False,
    framing: Framing | None = None,
) -> Photo:
    """Decode an image of any mode and size to 8 bits, RGB or grey, turned by its EXIF orientation.

    Deeper images are scaled to 8 bits, not clipped: 16 bits, and floats from 0 to 1 in arrays. Of
    an animation, the first frame is decoded.

    Args:
        background: colour behind transparent parts.
        grey: decode to one channel, the luma.
        framing: what the photo is for; files larger than it needs are decoded at a fraction of
            their size.

    Raises:
        UserError: the file is missing, not an image, damaged or too large, or an array is not an
            image; the message is the reason alone, without the file's name.
    """
    with translate_errors():
        if isinstance(source, Tensor | np.ndarray):
            source = _image_from_array(source)
        if isinstance(source, Image.Image):
            return _to_photo(source, background, grey)
        if not isinstance(source, str | Path) and not hasattr(source, "read"):
            raise UserError(describe_no_image(source))
        with _open(source) as file:
            return _decode(file, background, grey, framing)


def _open(source: str | Path | BinaryIO) -> Any:
    """Return a context that gives an open file, from its start to its end."""
    if source == "-":
        content = sys.stdin.buffer.read(MAX_STREAM_BYTES + 1)
        if len(content) > MAX_STREAM_BYTES:
            raise UserError(f"too large, more than {MAX_STREAM_BYTES:,} bytes")
        return nullcontext(io.BytesIO(content))
    if not isinstance(source, str | Path):
        return nullcontext(source if source.seekable() else io.BytesIO(source.read()))
    path = Path(source)
    if path.is_dir():
        empty = next(_list_images(path), None) is None
        raise UserError("no images in this folder" if empty else "a folder, not an image")
    return open_regular(path)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a pipe or a device, which may never end, is refused.

    Raises:
        UserError: it is no regular file; the message is the reason alone.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise UserError("a folder, not an image")
    if not stat.S_ISREG(mode):
        raise UserError("a pipe or a device, not a file")
    return path.open("rb")


def check_sides(image: Image.Image) -> None:
    """Check the size of an image before its pixels are decoded.

    Raises:
        UserError: a side is so long that the rows alone would take gigabytes.
    """
    if max(image.size) > MAX_SIDE:
        raise UserError(f"too large, {max(image.size):,} pixels along a side")


def read_size(path: Path) -> tuple[int, int] | None:
    """Return height and width of an image file, not turned; None if it is not an image."""
    with (
        suppress(UserError),
        translate_errors(),
        open_regular(path) as file,
        Image.open(file, formats=FORMATS) as image,
    ):
        return image.height, image.width
    return None


def _match_images(pattern: str) -> list[str]:
    if not pattern:
        # As a path, it would be the current folder.
        return []
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


def _decode(file: BinaryIO, background: str, grey: bool, framing: Framing | None) -> Photo:
    if file.seek(0, os.SEEK_END) == 0:
        raise UserError("an empty file")
    with Image.open(file, formats=FORMATS) as image:
        check_sides(image)
        width, height = image.size
        scale = framing.scale(height, width) if framing else 1
        orientation = image.getexif().get(ORIENTATION, 1)
        if image.format in JPEGS:
            if scale == 1 and orientation == 1 and image.mode in ("L", "RGB"):
                # Pillow judges what torchvision refuses.
                with suppress(RuntimeError):
                    return Photo(_decode_jpeg(file, grey), (height, width))
            image.draft(None, (width // scale, height // scale))
        image.load()
        # Orientations from 5 on are quarter turns.
        size = (width, height) if orientation >= 5 else (height, width)
        return _to_photo(image, background, grey, size, scale)


def _to_photo(
    image: Image.Image,
    background: str,
    grey: bool,
    size: tuple[int, int] | None = None,
    scale: int = 1,
) -> Photo:
    """Convert an image, upright from now on, to a photo; it may be smaller than `size` already."""
    image = convert_to_rgb(image, background)
    size = size or (image.height, image.width)
    if scale > 1 and (image.height, image.width) == size:
        image = image.reduce(scale)
    values = np.array(image.convert("L") if grey else image)
    return Photo(torch.from_numpy(np.atleast_3d(values)).permute(2, 0, 1), size, scale)


def _decode_jpeg(file: BinaryIO, grey: bool) -> Tensor:
    """Decode a JPEG of one or three channels; a sixth faster than Pillow (docs/scaling.md)."""
    file.seek(0)
    data = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    with silent_stderr:
        pixels = decode_jpeg(data)
    return to_luma(pixels) if grey else pixels.expand(3, -1, -1)


def _image_from_array(values: Tensor | np.ndarray[Any, Any]) -> Image.Image:
    """Convert an array or a tensor to an image of 8 bits; of four channels, the last is alpha."""
    axis = _find_alpha(values)
    if axis is None:
        pixels = image_to_pixels(values)
    else:
        move: Any = torch.movedim if isinstance(values, Tensor) else np.moveaxis
        channels = move(values, axis, 0)
        # In one plane, colours and alpha are on one scale.
        plane = image_to_pixels(channels.reshape(-1, channels.shape[-1]))
        pixels = plane.view(4, *channels.shape[1:])
    image: Image.Image = to_pil_image(pixels)
    return image


def _find_alpha(values: Tensor | np.ndarray[Any, Any]) -> int | None:
    """Return the axis of four channels, if there is one: 0 or -1."""
    if values.ndim != 3:
        return None
    for axis in (0, -1) if isinstance(values, Tensor) else (-1, 0):
        if values.shape[axis] in (1, 3, 4):
            return axis if values.shape[axis] == 4 else None
    return None


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise a `UserError` of one line for any error in decoding an image."""
    try:
        with no_warnings:
            yield
    except UserError:
        raise
    # For damaged files, Pillow raises errors of a dozen types.
    except Exception as error:
        raise UserError(describe_error(error)) from error


def describe_no_image(found: object) -> str:
    """Return why an object is no image, and what to pass."""
    if isinstance(found, bytes | bytearray | memoryview):
        return "bytes are no image; pass io.BytesIO(…) of the content of a file"
    return (
        f"{describe_type(found)} is no image; pass a path, a Pillow image, an"
        " array, or a list of them"
    )


def describe_error(error: Exception) -> str:
    """Return what an error in decoding an image means for its file."""
    match error:
        case UserError():
            return str(error)
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
