"""Data in memory: datasets, arrays and tensors, and Hugging Face datasets, as sources.

Images are read once and kept as 8-bit pixels; nothing refers to the object afterwards.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compress.data.labelled_files import TEST_FRACTION
from compress.data.labels import ClassNames, to_class_numbers
from compress.data.read_split import fit, is_arrays_pair, read_splits
from compress.data.source import Normalization, Pixels, Source
from compress.data.split_names import SPLIT_NAMES, split_of
from compress.data.splits import split_rows
from compress.runtime.errors import UserError


def to_source(
    data: Any,
    *,
    image_size: int | None = None,
    classes: ClassNames | None = None,
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
        classes: names of the classes, as `read_class_names` takes them; the data's own, or numbers,
            if left out.
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
        read = read_splits(splits, image_size, normalization)
    own = next((each.classes for each in read.values() if each.classes), None)
    labels = {key: each.labels for key, each in read.items()}
    targets, names = to_class_numbers(labels, classes or own, from_zero=own is not None)
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


def to_scored_source(
    data: Any, *, image_size: int, classes: Sequence[str], normalization: Normalization
) -> Source:
    """Read data in memory that a trained network is scored on.

    Of a single split, all images are both validation and test images; otherwise as `to_source`.
    """
    splits = _find_splits(data)
    single = splits[0][1] if len(splits) == 1 else None
    source, _ = to_source(
        data if single is None else (single, single),
        image_size=image_size,
        classes=classes,
        normalization=normalization,
    )
    return source if single is None else replace(source, notes=())


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
    count = len(found.targets)
    return Source(name, classes, side, train, lambda: found, val, notes=notes, test_count=count)


def _find_splits(data: Any) -> list[tuple[str, Any]]:
    """Return the splits of `data` by name, "train" first."""
    if isinstance(data, Mapping) and not hasattr(data, "features"):
        return _name_splits(data)
    if isinstance(data, tuple) and len(data) == 4 and all(hasattr(each, "shape") for each in data):
        raise UserError("data: four arrays; pass ((train images, labels), (val images, labels))")
    if _may_be_splits(data) and not is_arrays_pair(data):
        return list(zip(("train", "val", "test"), data, strict=False))
    return [("train", data)]


def _may_be_splits(data: Any) -> bool:
    """Return True for two or three objects; in a list, which may hold items, they are datasets."""
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        return False
    return isinstance(data, tuple) or all(isinstance(x, Dataset | DataLoader) for x in data)


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


def _stack(images: list[Tensor] | Tensor, side: int, channels: int) -> Tensor:
    """Return images (N, C, H, W), square; those of another size become `side` pixels wide."""
    if isinstance(images, Tensor) and images.shape[2] == images.shape[3]:
        return images if images.shape[1] == channels else images.expand(-1, channels, -1, -1)
    if any(each.shape[0] > channels for each in images):
        raise UserError("data: training images are grey, others have colours; convert them alike")
    fitted = [
        (each if tuple(each.shape[1:]) == (side, side) else fit(each, side)).expand(
            channels, -1, -1
        )
        for each in images
    ]
    return torch.stack(fitted)


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
