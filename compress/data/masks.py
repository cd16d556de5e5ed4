"""Masks: the class of each pixel, read from files, and moved along with their images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from compress.data.color import ORIENTATION
from compress.data.decode import check_sides, open_regular, translate_errors
from compress.data.formats import FORMATS
from compress.data.photo import center_box
from compress.data.source import IGNORE, Files, MaskFiles, Pixels
from compress.runtime.errors import UserError

# Modes of Pillow's images whose values are numbers, or places in a palette.
NUMBERED = ("1", "L", "P", "I", "I;16")


def read_mask(path: Path, numbers: tuple[int, ...] = ()) -> Tensor:
    """Read a mask: class numbers, or `IGNORE`, uint8 (h, w).

    Of an image with a palette, the places in the palette are the numbers; its colours do not
    matter.

    Args:
        numbers: as in `MaskFiles`.

    Raises:
        UserError: the file cannot be read, or holds colours; the message is the reason alone.
    """
    with translate_errors(), open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
        check_sides(image)
        if image.mode not in NUMBERED:
            raise UserError(
                f"a mask of colours ({image.mode}); save it with a palette, or as class numbers in"
                " one channel"
            )
        values: Any = np.array(image).astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > IGNORE:
        raise UserError(f"a mask with the value {int(values.max())}; class numbers end at 254")
    table = np.arange(IGNORE + 1, dtype=np.uint8)
    table[: len(numbers)] = numbers
    return torch.from_numpy(table[values])


def crop_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop a box of each mask, and resize it by the nearest neighbour.

    Args:
        masks: (B, H, W).
        boxes: left, top, right, bottom, in pixels, (B, 4). What lies outside of a mask is `IGNORE`.
        size: height and width of the result.

    Returns:
        Masks of the same type, (B, *size).
    """
    height, width = masks.shape[1:]
    boxes = boxes.to(masks.device)
    centers = [(torch.arange(side, device=masks.device) + 0.5) / side for side in size]
    columns, rows = (
        (low + (high - low) * at).floor().long()
        for low, high, at in (
            (boxes[:, :1], boxes[:, 2:3], centers[1]),
            (boxes[:, 1:2], boxes[:, 3:], centers[0]),
        )
    )
    outside = ((columns < 0) | (columns >= width))[:, None, :]
    outside = outside | ((rows < 0) | (rows >= height))[:, :, None]
    columns, rows = columns.clamp(0, width - 1), rows.clamp(0, height - 1)
    which = torch.arange(len(masks), device=masks.device)[:, None, None]
    return masks[which, rows[:, :, None], columns[:, None, :]].masked_fill(outside, IGNORE)


def whole_boxes(masks: Tensor) -> Tensor:
    """Return the boxes of whole masks (B, H, W): (B, 4)."""
    height, width = masks.shape[1:]
    return torch.tensor([0.0, 0.0, width, height]).expand(len(masks), 4)


def resize_labels(labels: Tensor, side: int) -> Tensor:
    """Resize masks (N, H, W) to a side; class numbers of images, (N,), stay as they are."""
    if labels.dim() == 1:
        return labels
    return crop_masks(labels, whole_boxes(labels), (side, side))


def uncrop_mask(mask: Tensor, image: tuple[int, int], crop_ratio: float) -> Tensor:
    """Return the mask of a whole image, of that of the square that a network sees.

    Args:
        mask: uint8 (S, S).
        image: height and width of the image.

    Returns:
        uint8 (height, width), `IGNORE` outside of the square.
    """
    height, width = image
    side = mask.shape[0]
    left, top, right, bottom = center_box(image, (side, side), crop_ratio)
    across, down = side / (right - left), side / (bottom - top)
    box = (-left * across, -top * down, (width - left) * across, (height - top) * down)
    return crop_masks(mask[None], torch.tensor([box]), image)[0]


def load_masks(images: Pixels | Files, side: int, crop_ratio: float) -> Tensor:
    """Load the masks of `images`, of the squares that a network sees: uint8 (N, side, side).

    Raises:
        UserError: a mask cannot be read, or has another size than its image; the message names it.
    """
    assert images.masks is not None

    def fit(masks: Tensor) -> Tensor:
        box = center_box((masks.shape[1], masks.shape[2]), (side, side), crop_ratio)
        return crop_masks(masks, torch.tensor([box]).expand(len(masks), 4), (side, side))

    if isinstance(images, Pixels):
        assert isinstance(images.masks, Tensor)
        return torch.cat([fit(chunk) for chunk in torch.split(images.masks, 256)])
    files: MaskFiles = images.masks
    root = images.root

    def load(name: str, image: str) -> Tensor:
        try:
            mask = read_mask(root / name, files.numbers)
        except UserError as error:
            raise UserError(f"cannot read the mask {root / name}: {error}; replace it") from error
        if fault := _find_wrong_size(mask, name, root / image):
            raise UserError(f"{root / image}: {fault}; replace or remove them")
        return fit(mask[None])

    # Pillow decodes without Python's lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return torch.cat(list(threads.map(load, files.names, images.names)))


def check_numbers(masks: Tensor, classes: int, where: str) -> None:
    """Check that all pixels of masks have a class, or are `IGNORE`.

    Raises:
        UserError: one does not.
    """
    wrong = masks[(masks >= classes) & (masks != IGNORE)]
    if len(wrong):
        raise UserError(
            f"{where}: the value {int(wrong.max())} is none of {classes} classes, nor {IGNORE}, of"
            " pixels without one; name all classes in classes.txt, one a line, or mend the mask"
        )


def check_known(masks: Tensor, name: str) -> None:
    """Check that any pixel of the training masks has a class.

    Raises:
        UserError: none has.
    """
    if not bool((masks != IGNORE).any()):
        raise UserError(
            f"{name}: no pixel of the training masks has a class: all are {IGNORE}; save the class"
            " numbers"
        )


def find_mask_faults(files: Files, classes: int) -> Iterator[tuple[str, str]]:
    """Yield the name of each image whose mask is broken, and what is wrong with it."""
    masks = files.masks
    if masks is None:
        return

    def find(row: int) -> str | None:
        mask = files.root / masks.names[row]
        try:
            values = read_mask(mask, masks.numbers)
            check_numbers(values, classes, "the mask")
        except UserError as error:
            return f"{mask.name}: {error}"
        return _find_wrong_size(values, mask.name, files.root / files.names[row])

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for name, fault in zip(
            files.names, threads.map(find, range(len(files.names))), strict=True
        ):
            if fault is not None:
                yield name, fault


def _find_wrong_size(mask: Tensor, name: str, image: Path) -> str | None:
    """Say that a mask (h, w) has another size than its image; None if it has the same."""
    height, width = _upright_size(image)
    if tuple(mask.shape) == (height, width):
        return None
    return f"{width}×{height} pixels, and its mask {name} {mask.shape[1]}×{mask.shape[0]}"


def _upright_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image that can be read, turned by its EXIF orientation."""
    with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
        # Orientations from 5 on are quarter turns.
        turned = image.getexif().get(ORIENTATION, 1) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)
