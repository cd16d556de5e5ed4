"""Predicted masks as files: PNG with a palette, and overlays on the images."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from compress.data.decode import read_photo
from compress.data.masks import uncrop_mask
from compress.deployment.predict import Prediction
from compress.runtime.errors import UserError, one_line
from compress.runtime.files import atomic_write, make_folder

# Weight of the mask's colours in an overlay.
OPACITY = 0.5
OVERLAY = "-overlay"
# By this chunk, right after the header, a PNG file of this package is known.
SOFTWARE = "compress"
MARK = b"tEXtSoftware\0" + SOFTWARE.encode()


def make_palette() -> list[int]:
    """Return the red, green and blue of 256 classes: the colour map of PASCAL VOC.

    The bits of a class number, from the lowest on, go to the three colours in turn, from their
    highest bits on. Class 0 is black.
    """
    palette = []
    for number in range(256):
        color = [0, 0, 0]
        for bit in range(8):
            color[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
        palette += color
    return palette


def mask_files(images: Sequence[str], out: Path) -> list[Path]:
    """Return the file of the mask of each image.

    Raises:
        UserError: two images would have the same file, or a mask or an overlay would replace an
            image, or a file that this package has not written.
    """
    names = ["stdin" if image == "-" else Path(image).stem for image in images]
    files = [out / f"{name}.png" for name in names]
    written = [target for file in files for target in (file, overlay_file(file))]
    file, count = Counter(written).most_common(1)[0] if written else (out, 0)
    if count > 1:
        raise UserError(
            f"--out: two images would be written to {file}; write one to another folder"
        )
    # Path.resolve() raises an error for a link to itself.
    sources = {os.path.realpath(image) for image in images}
    for file in written:
        if os.path.realpath(file) in sources:
            raise UserError(f"--out: {file} is one of the images; choose another folder")
        if os.path.lexists(file) and not _is_ours(file):
            raise UserError(
                f"--out: {file} exists, and is not marked as written by compress; choose another"
                " folder"
            )
    return files


def _is_ours(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return MARK in content.read(64)


def overlay_file(mask: Path) -> Path:
    """Return the file of the overlay that belongs to a mask."""
    return mask.with_name(f"{mask.stem}{OVERLAY}.png")


def write_masks(
    predictions: Sequence[Prediction], out: str | Path, *, crop_ratio: float = 1.0
) -> list[Path]:
    """Write the masks of predictions, and overlays of the masks on the images.

    A mask has the size of its image; pixels outside of the square that the network sees are 255.
    ``NAME.png`` holds class numbers, with a palette; ``NAME-overlay.png`` the image in the colours
    of the classes. Images that could not be read have none.

    Args:
        crop_ratio: the network's.

    Returns:
        The files of the masks.

    Raises:
        UserError: the folder cannot be written, or as `mask_files`.
    """
    files = mask_files([each.image for each in predictions], Path(out))
    try:
        make_folder(Path(out))
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({one_line(error)})") from error
    written = []
    for prediction, file in zip(predictions, files, strict=True):
        if prediction.mask is not None:
            _write_mask(prediction, prediction.mask, file, crop_ratio)
            written.append(file)
    return written


def _write_mask(prediction: Prediction, mask: Tensor, file: Path, crop_ratio: float) -> None:
    palette = make_palette()
    if prediction.image == "-":
        # Standard input cannot be read again.
        _save_mask(mask, palette, file)
        return
    photo = read_photo(prediction.image)
    values = uncrop_mask(mask, photo.size, crop_ratio)
    _save_mask(values, palette, file)
    colors = torch.tensor(palette).view(256, 3)[values.long()]
    pixels = photo.pixels.permute(1, 2, 0)
    # The ground of class 0, and what the network does not see, stay as they are.
    known = ((values > 0) & (values < 255))[..., None]
    mixed = torch.where(known, OPACITY * colors + (1 - OPACITY) * pixels, pixels.float())
    overlay = Image.fromarray(mixed.numpy().astype(np.uint8))
    _save(overlay, overlay_file(file))


def _save_mask(values: Tensor, palette: list[int], path: Path) -> None:
    image = Image.fromarray(values.numpy(), "P")
    image.putpalette(palette)
    _save(image, path)


def _save(image: Image.Image, path: Path) -> None:
    content, info = io.BytesIO(), PngInfo()
    info.add_text("Software", SOFTWARE)
    image.save(content, "PNG", pnginfo=info)
    with atomic_write(path) as file:
        file.write(content.getvalue())
