"""Splits of data in memory, read item by item or as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torchvision.transforms.v2 import functional as F

from compress.data.arrays import (
    Scale,
    ScaleError,
    image_to_pixels,
    images_to_pixels,
    is_array,
    is_float,
    list_scales,
)
from compress.data.color import convert_to_rgb
from compress.data.dataset_classes import find_class_names
from compress.data.hugging_face import IMAGE_COLUMNS, LABEL_COLUMNS
from compress.data.labels import describe_split, read_targets
from compress.data.loaders import unwrap_loader
from compress.data.source import Normalization
from compress.runtime.errors import UserError, describe_type, one_line

# Side in pixels to which images of several sizes are resized by default.
IMAGE_SIZE = 224
# Usual names of the columns of a table of images.
IMAGE_KEYS = (*IMAGE_COLUMNS, "pixel_values", "picture", "photo")
LABEL_KEYS = (*LABEL_COLUMNS, "targets", "y")
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Args:
        image_size: side in pixels to which images of several sizes are resized.
        background: colour behind transparent parts.
        scale: that of floats.
        named: the names of the classes were passed.
    """

    image_size: int | None
    background: str
    scale: Scale
    named: bool


@dataclass
class Read:
    """One split as it was read.

    Args:
        images: uint8 (C, H, W) each, or all of them, (N, C, H, W).
        labels: as they came.
        classes: names of the classes, if the data has them.
        side: side of the square images.
        channels: 1 or 3.
        floats: True if the images came as floats.
    """

    images: list[Tensor] | Tensor
    labels: list[Any]
    classes: tuple[str, ...] | None
    side: int
    channels: int
    floats: bool = False
    notes: tuple[str, ...] = ()


def is_arrays_pair(data: Any) -> bool:
    """Return True for (images, labels), and False for splits."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    images, labels = data
    if is_array(images):
        return _is_column(labels) or isinstance(labels, Sequence)
    flat = _is_column(labels) or (
        isinstance(labels, list | tuple)
        and bool(labels)
        and all(isinstance(each, int | float | str) or _is_number(each) for each in labels)
    )
    return flat and isinstance(images, Sequence)


def _is_number(found: Any) -> bool:
    return isinstance(found, np.generic) or (isinstance(found, Tensor) and found.numel() == 1)


def _is_column(found: Any) -> bool:
    """Return True for arrays, and for the columns of pandas and other libraries."""
    return is_array(found) or (hasattr(found, "__array__") and hasattr(found, "__len__"))


def read_splits(
    splits: Sequence[tuple[str, Any]],
    image_size: int | None,
    background: str,
    normalization: Normalization | None,
    *,
    named: bool,
) -> dict[str, Read]:
    """Read splits by name; the floats of all their images are on one scale.

    Images have their own size, or `image_size` if those of a split have several. Datasets that are
    joined may have classes with different names if names were passed (`named`).

    Raises:
        UserError: a split cannot be used.
    """
    errors: list[ScaleError] = []
    for scale in list_scales(normalization):
        try:
            reading = Reading(image_size, background, scale, named)
            return {name: _read_split(split, name, reading) for name, split in splits}
        except ScaleError as error:
            errors.append(error)
    # Without a normalization, floats of 0 to 1 are what was expected.
    raise errors[0 if normalization is None else -1]


def _read_split(data: Any, split: str, reading: Reading) -> Read:
    where = describe_split(split)
    notes: tuple[str, ...] = ()
    if isinstance(data, DataLoader):
        data, notes = unwrap_loader(data, where)
    found = _read_data(data, where, reading)
    found.notes = (*notes, *found.notes)
    return found


def _read_data(data: Any, where: str, reading: Reading) -> Read:
    if not is_arrays_pair(data):
        return _read_items(data, where, reading)
    images, labels = data
    labels = read_targets(labels)
    if len(images) != len(labels):
        raise UserError(f"{where}: {len(images)} images and {len(labels)} labels")
    if not is_array(images):
        return _read_items(list(zip(images, labels, strict=True)), where, reading)
    try:
        pixels = images_to_pixels(images, (reading.scale,))
    except UserError as error:
        raise type(error)(f"{where}: {error}") from error
    side, notes = min(pixels.shape[2:]), _note_crop(pixels[0])
    return Read(pixels, labels, None, side, pixels.shape[1], is_float(images), notes)


def _read_items(data: Any, where: str, reading: Reading) -> Read:
    """Read a dataset item by item."""
    _check_items(data, where)
    count = len(data)
    keys, notes = _find_columns(data, where)
    images: list[Tensor] = []
    labels: list[Any] = []
    side: int | None = None
    for row in range(count):
        pixels, label = _read_item(data, row, keys, where, reading)
        if side is None and images and pixels.shape[1:] != images[0].shape[1:]:
            side = reading.image_size or IMAGE_SIZE
            images = [fit(each, side) for each in images]
        images.append(pixels if side is None else fit(pixels, side))
        labels.append(label)
    again, _ = _read_item(data, 0, keys, where, reading)
    if side is None and not torch.equal(again, images[0]):
        notes = (*notes, "the dataset changes its images at random: one drawing of each is kept")
    notes = (*notes, *_note_crop(images[0]))
    channels = max(each.shape[0] for each in images)
    side = side or min(images[0].shape[1:])
    floats = is_float(data[0][keys[0]])
    classes = find_class_names(data, keys[1], where, named=reading.named)
    return Read(images, read_targets(labels), classes, side, channels, floats, notes)


def _note_crop(image: Tensor) -> tuple[str, ...]:
    """Return a line if images of one size are not square."""
    height, width = image.shape[1:]
    side = min(height, width)
    kept = f"images of {height}×{width} pixels: the {side}×{side} at their centre are kept"
    return () if height == width else (kept,)


def _check_items(data: Any, where: str) -> None:
    """Refuse what has no images with labels by number."""
    if is_array(data):
        raise UserError(f"{where}: images without labels; pass (images, labels)")
    if hasattr(data, "iloc"):
        raise UserError(
            f"{where}: {describe_type(data)} is no dataset; pass (images, labels), or write a"
            " table of image files and pass csv:FILE"
        )
    try:
        assert hasattr(data, "__getitem__") and not isinstance(data, IterableDataset)
        count = len(data)
    except (TypeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"{where}: {describe_type(data)} has no length or no items; pass a dataset, arrays"
            " (images, labels), or a list of (image, label)"
        ) from error
    if count == 0:
        raise UserError(f"{where}: no images")


def _read_item(
    data: Any, row: int, keys: tuple[Any, Any], where: str, reading: Reading
) -> tuple[Tensor, Any]:
    try:
        item = data[row]
        image, label = item[keys[0]], item[keys[1]]
        return _to_pixels(image, reading), label
    # A dataset may raise anything.
    except Exception as error:
        kind = ScaleError if isinstance(error, ScaleError) else UserError
        raise kind(f"{where}: item {row}: {one_line(error)}") from error


def _to_pixels(image: Any, reading: Reading) -> Tensor:
    if isinstance(image, Image.Image):
        pixels: Tensor = F.pil_to_tensor(convert_to_rgb(image, reading.background))
        return pixels[:1] if image.mode in GREY_MODES else pixels
    if not is_array(image):
        raise UserError(f"{describe_type(image)} is no image; pass a Pillow image or an array")
    return image_to_pixels(image, (reading.scale,))


def _find_columns(data: Any, where: str) -> tuple[tuple[Any, Any], tuple[str, ...]]:
    """Return the keys of image and label in an item: columns, or 0 and 1."""
    features = getattr(data, "features", None)
    if isinstance(features, Mapping):
        kinds = {key: type(each).__name__ for key, each in features.items()}
        images = [key for key, kind in kinds.items() if kind == "Image"]
        labels = [key for key, kind in kinds.items() if kind == "ClassLabel"]
        columns = list(features)
    else:
        try:
            first = data[0]
        # A dataset may raise anything.
        except Exception as error:
            raise UserError(f"{where}: item 0: {one_line(error)}") from error
        if not isinstance(first, Mapping):
            if not isinstance(first, tuple | list) or len(first) < 2:
                raise UserError(
                    f"{where}: items are (image, label), or columns; found {describe_type(first)}"
                )
            return (0, 1), ()
        images, labels, columns = [], [], list(first)
    images = images or [key for key in IMAGE_KEYS if key in columns]
    labels = [key for key in LABEL_KEYS if key in (labels or columns)] or labels
    if not images or not labels:
        missing = "label" if images else "image"
        raise UserError(f"{where}: no {missing} among the columns {', '.join(map(str, columns))}")
    others = ", ".join(map(repr, labels[1:]))
    notes = (f"labels are the column {labels[0]!r}, and not {others}",) if others else ()
    return (images[0], labels[0]), notes


def fit(image: Tensor, side: int) -> Tensor:
    """Resize the shorter side of an image to `side` pixels and crop it at the centre."""
    fitted: Tensor = F.center_crop(F.resize(image, [side], antialias=True), [side, side])
    return fitted
