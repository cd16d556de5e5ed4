"""Data in memory: datasets, arrays and tensors, and Hugging Face datasets, as sources.

Images are read once and kept as 8-bit pixels; nothing refers to the object afterwards.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as F

from compress.data.arrays import image_to_pixels, images_to_pixels, is_array
from compress.data.decode import convert_to_rgb
from compress.data.hugging_face import IMAGE_COLUMNS, LABEL_COLUMNS
from compress.data.labelled_files import TEST_FRACTION
from compress.data.labels import read_targets, to_class_numbers
from compress.data.source import Normalization, Pixels, Source
from compress.data.split_names import SPLIT_NAMES, split_of
from compress.data.splits import split_rows
from compress.runtime.errors import UserError, one_line

# Side in pixels to which images of several sizes are resized by default.
IMAGE_SIZE = 224
# Usual names of the columns of a table of images.
IMAGE_KEYS = (*IMAGE_COLUMNS, "pixel_values", "picture", "photo")
LABEL_KEYS = (*LABEL_COLUMNS, "targets", "y")
GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")


def to_source(
    data: Any,
    *,
    image_size: int | None = None,
    classes: Sequence[str] | None = None,
    normalization: Normalization | None = None,
) -> tuple[Source, str]:
    """Read data in memory, with a fingerprint of its content.

    Args:
        data: a torch Dataset or DataLoader, a sequence of (image, label), a pair of arrays (images,
            labels), or a Hugging Face dataset; or its splits: (train, val), (train, val, test), or
            a mapping with the usual names, such as a DatasetDict. Without a test split, the
            validation images are the test images, or a fifth of the only split is held out.
        image_size: side in pixels to which images of several sizes are resized, and cropped at the
            centre; 224 if left out. Images of one size keep theirs.
        classes: names of the classes; the data's own, or numbers, if left out.
        normalization: mean and standard deviation by channel, of the network's images. It is undone
            in images that are normalized already. If left out, networks take floats as they come;
            other images are normalized by their own values.

    Returns:
        The source; and 12 hex digits, of a SHA-256 of all pixels, labels and class names.

    Raises:
        UserError: the data is of another kind, or an image or a label cannot be used.
    """
    splits = _find_splits(data)
    with _repeatable():
        read = {name: _read(split, name, image_size, normalization) for name, split in splits}
    names = classes or next((each.classes for each in read.values() if each.classes), None)
    targets, names = to_class_numbers({key: each.labels for key, each in read.items()}, names)
    side = read["train"].side
    images = {
        key: Pixels(_stack(each.images, side, read["train"].channels), targets[key])
        for key, each in read.items()
    }
    notes = tuple(dict.fromkeys(note for each in read.values() for note in each.notes))
    if normalization is None and read["train"].floats:
        normalization = ((0.0,) * 3, (1.0,) * 3)
    fingerprint = _fingerprint(images, names, normalization)
    source = _make_source(f"{_name(splits[0][1])}-{fingerprint}", images, names, side, notes)
    return replace(source, normalization=normalization), fingerprint


def _make_source(
    name: str,
    images: dict[str, Pixels],
    classes: tuple[str, ...],
    side: int,
    notes: tuple[str, ...],
) -> Source:
    train, val, test = images["train"], images.get("val"), images.get("test")
    if test is None and val is None:
        count = max(1, round(TEST_FRACTION * len(train.targets)))
        held_out, rest = split_rows(train.targets, count, seed=0)
        train, test = train.take(rest), train.take(held_out)
    elif test is None:
        test = val
        notes = (*notes, "no test images: test accuracy is that on the validation images")
    assert test is not None
    found = test
    return Source(name, classes, side, train, lambda: found, val, notes=notes)


@dataclass
class _Read:
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


def _find_splits(data: Any) -> list[tuple[str, Any]]:
    """Return the splits of `data` by name, "train" first."""
    if isinstance(data, Mapping) and not hasattr(data, "features"):
        return _name_splits(data)
    if isinstance(data, tuple) and len(data) in (2, 3) and not _is_arrays_pair(data):
        return list(zip(("train", "val", "test"), data, strict=False))
    return [("train", data)]


def _name_splits(data: Mapping[Any, Any]) -> list[tuple[str, Any]]:
    found: dict[str, Any] = {}
    for key, split in data.items():
        role = split_of(str(key))
        if role is None or role in found:
            known = "train, val, test"
            raise UserError(f"data: {key!r} is no split, or comes twice; name the splits {known}")
        found[role] = split
    if "train" not in found:
        raise UserError(f"data: no train split among {', '.join(map(str, data))}")
    return [(role, found[role]) for role in SPLIT_NAMES if role in found]


def _is_arrays_pair(data: Any) -> bool:
    """Return True for (images, labels), and False for splits."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    images, labels = data
    if is_array(images):
        return is_array(labels) or isinstance(labels, Sequence)
    flat = is_array(labels) or (
        isinstance(labels, list | tuple)
        and bool(labels)
        and all(isinstance(each, int | str | np.integer) for each in labels)
    )
    return flat and isinstance(images, Sequence)


def _read(
    data: Any, split: str, image_size: int | None, normalization: Normalization | None
) -> _Read:
    data = data.dataset if isinstance(data, DataLoader) else data
    where = "data" if split == "train" else f"data, {split}"
    if _is_arrays_pair(data):
        images, labels = data
        labels = read_targets(labels)
        if len(images) != len(labels):
            raise UserError(f"{where}: {len(images)} images and {len(labels)} labels")
        if is_array(images):
            try:
                pixels = images_to_pixels(images, normalization)
            except UserError as error:
                raise UserError(f"{where}: {error}") from error
            side = min(pixels.shape[2:])
            return _Read(pixels, labels, None, side, pixels.shape[1], _is_float(images))
        data = list(zip(images, labels, strict=True))
    return _read_items(data, where, image_size, normalization)


def _read_items(
    data: Any, where: str, image_size: int | None, normalization: Normalization | None
) -> _Read:
    """Read a dataset item by item."""
    try:
        count = len(data)
        assert hasattr(data, "__getitem__")
    except (TypeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"{where}: a {type(data).__name__} has no length or no items; pass a dataset, arrays"
            " (images, labels), or a list of (image, label)"
        ) from error
    if count == 0:
        raise UserError(f"{where}: no images")
    keys, notes = _find_columns(data, where)
    images: list[Tensor] = []
    labels: list[Any] = []
    side: int | None = None
    for row in range(count):
        pixels, label = _read_item(data, row, keys, where, normalization)
        if side is None and images and pixels.shape[1:] != images[0].shape[1:]:
            side = image_size or IMAGE_SIZE
            images = [_fit(each, side) for each in images]
        images.append(pixels if side is None else _fit(pixels, side))
        labels.append(label)
    again, _ = _read_item(data, 0, keys, where, normalization)
    if side is None and not torch.equal(again, images[0]):
        notes = (*notes, "the dataset changes its images at random: one drawing of each is kept")
    channels = max(each.shape[0] for each in images)
    side = side or min(images[0].shape[1:])
    floats, classes = _is_float(data[0][keys[0]]), _find_classes(data, keys)
    return _Read(images, read_targets(labels), classes, side, channels, floats, notes)


def _read_item(
    data: Any, row: int, keys: tuple[Any, Any], where: str, normalization: Normalization | None
) -> tuple[Tensor, Any]:
    try:
        item = data[row]
        image, label = item[keys[0]], item[keys[1]]
        return _to_pixels(image, normalization), label
    # A dataset may raise anything.
    except Exception as error:
        raise UserError(f"{where}: item {row}: {one_line(error)}") from error


def _to_pixels(image: Any, normalization: Normalization | None) -> Tensor:
    if isinstance(image, Image.Image):
        pixels: Tensor = F.pil_to_tensor(convert_to_rgb(image, "white"))
        return pixels[:1] if image.mode in GREY_MODES else pixels
    if not is_array(image):
        raise UserError(f"a {type(image).__name__} is no image; pass a Pillow image or an array")
    return image_to_pixels(image, normalization)


def _is_float(images: Any) -> bool:
    if isinstance(images, Tensor):
        return images.is_floating_point()
    return isinstance(images, np.ndarray) and images.dtype.kind == "f"


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
                kind = type(first).__name__
                raise UserError(f"{where}: items are (image, label), or columns; found a {kind}")
            return (0, 1), ()
        images, labels, columns = [], [], list(first)
    images = images or [key for key in IMAGE_KEYS if key in columns]
    labels = [key for key in LABEL_KEYS if key in (labels or columns)] or labels
    if not images or not labels:
        missing = "label" if images else "image"
        raise UserError(f"{where}: no {missing} among the columns {', '.join(map(str, columns))}")
    others = [key for key in labels[1:] if isinstance(features, Mapping)]
    notes = (f"labels are the column {labels[0]!r}",) if others else ()
    return (images[0], labels[0]), notes


def _find_classes(data: Any, keys: tuple[Any, Any]) -> tuple[str, ...] | None:
    """Return the names of the classes that a dataset knows."""
    features = getattr(data, "features", None)
    names = getattr(features[keys[1]], "names", None) if isinstance(features, Mapping) else None
    while names is None and data is not None:
        names, data = getattr(data, "classes", None), getattr(data, "dataset", None)
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        return None
    # ImageNet's classes have several names each.
    return tuple(str(each[0] if isinstance(each, tuple) else each) for each in names)


def _stack(images: list[Tensor] | Tensor, side: int, channels: int) -> Tensor:
    """Return images (N, C, H, W), square; those of another size become `side` pixels wide."""
    if isinstance(images, Tensor) and images.shape[2] == images.shape[3]:
        return images if images.shape[1] == channels else images.expand(-1, channels, -1, -1)
    if any(each.shape[0] > channels for each in images):
        raise UserError("data: training images are grey, others have colours; convert them alike")
    fitted = [
        (each if tuple(each.shape[1:]) == (side, side) else _fit(each, side)).expand(
            channels, -1, -1
        )
        for each in images
    ]
    return torch.stack(fitted)


def _fit(image: Tensor, side: int) -> Tensor:
    """Resize the shorter side of an image to `side` pixels and crop it at the centre."""
    fitted: Tensor = F.center_crop(F.resize(image, [side], antialias=True), [side, side])
    return fitted


def _fingerprint(
    images: dict[str, Pixels], classes: tuple[str, ...], normalization: Normalization | None
) -> str:
    digest = hashlib.sha256(repr((classes, normalization)).encode())
    for name, split in images.items():
        digest.update(repr((name, tuple(split.pixels.shape))).encode())
        digest.update(split.pixels.contiguous().numpy().data)
        digest.update(split.targets.numpy().data)
    return digest.hexdigest()[:12]


def _name(data: Any) -> str:
    data = data.dataset if isinstance(data, DataLoader) else data
    return "arrays" if isinstance(data, tuple | list) else type(data).__name__


@contextmanager
def _repeatable() -> Iterator[None]:
    """Let what datasets draw at random be the same every time, and touch no global generator."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
