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
from torch.utils.data import DataLoader

from compress.data.find_splits import find_splits
from compress.data.labelled_files import TEST_FRACTION
from compress.data.labels import (
    ClassNames,
    describe_split,
    list_names,
    name_labels,
    read_class_names,
    to_class_numbers,
)
from compress.data.read_split import Read, fit, read_splits
from compress.data.source import WHITE, Normalization, Pixels, Source
from compress.data.splits import split_rows
from compress.recipe.color import read_color
from compress.runtime.errors import UserError, quote

NO_TEST_IMAGES = "no test images: test accuracy is that on the validation images"


def to_source(
    data: Any,
    *,
    image_size: int | None = None,
    background: str = WHITE,
    classes: ClassNames | None = None,
    rename: bool = True,
    normalization: Normalization | None = None,
) -> tuple[Source, str]:
    """Read data in memory, with a fingerprint of its content.

    Args:
        data: a torch Dataset or DataLoader, a sequence of (image, label), a pair of arrays (images,
            labels), or a Hugging Face dataset; or its splits: (train, val), (train, val, test), or
            a mapping with the usual names, such as a DatasetDict, or with columns, such as x_train
            and y_train. Without a test split, the validation images are the test images, or a fifth
            of the only split is held out. Splits that know their classes may have them in any
            order, and validation and test images may lack some.
        image_size: side in pixels to which images of several sizes are resized, and cropped at the
            centre; 224 if left out. Images of one size keep theirs.
        background: colour behind transparent parts, as ``white`` or ``#rrggbb``.
        classes: names of the classes, as `read_class_names` takes them; the data's own, or numbers,
            if left out.
        rename: `classes` are new names of the data's own, in their order, if any of these is
            another. If False, they are a network's: only where as many are all others, they are
            matched by number; otherwise the data's own must be among them.
        normalization: mean and standard deviation by channel, of the network's images. It is undone
            in images that are normalized already. If left out, networks take floats as they come;
            other images are normalized by their own values.

    Returns:
        The source; and 12 hex digits, of a SHA-256 of all pixels, labels and class names.

    Raises:
        UserError: the data is of another kind, or an image or a label cannot be used.
    """
    splits = find_splits(data)
    background = read_color(background)
    with _repeatable():
        read = read_splits(
            splits, image_size, background, normalization, named=rename and classes is not None
        )
    own, matched = _name_classes(read, classes, rename)
    targets, names = _number_labels(read, own, classes, rename)
    side = read["train"].side
    images = {
        key: Pixels(_stack(each, side, read["train"].channels), targets[key])
        for key, each in read.items()
    }
    notes = tuple(dict.fromkeys(note for each in read.values() for note in each.notes)) + matched
    if normalization is None and read["train"].floats:
        normalization = ((0.0,) * 3, (1.0,) * 3)
    fingerprint = _fingerprint(images, names, normalization)
    source = _make_source(f"{_name(splits[0][1])}-{fingerprint}", images, names, side, notes)
    return replace(source, normalization=normalization, background=background), fingerprint


def to_scored_source(
    data: Any,
    *,
    image_size: int,
    background: str,
    classes: Sequence[str],
    normalization: Normalization,
) -> Source:
    """Read data in memory that a trained network is scored on.

    Of a single split, all images are both validation and test images; otherwise as `to_source`.
    The data may have some of the network's classes, in any order; or as many, whose names are all
    others, in the network's order.
    """
    splits = find_splits(data)
    single = splits[0][1] if len(splits) == 1 else None
    source, _ = to_source(
        data if single is None else (single, single),
        image_size=image_size,
        background=background,
        classes=classes,
        rename=False,
        normalization=normalization,
    )
    if single is None:
        return source
    return replace(source, notes=tuple(each for each in source.notes if each != NO_TEST_IMAGES))


def _name_classes(
    read: Mapping[str, Read], classes: ClassNames | None, rename: bool
) -> tuple[dict[str, tuple[str, ...] | None], tuple[str, ...]]:
    """Return the classes that the numbers of each split mean, and a note if a network's are meant.

    They are the data's own; or `classes`, as far as these are other names of the same.
    """
    own = {key: each.classes for key, each in read.items()}
    known = {each for each in own.values() if each is not None}
    if classes is None or len(known) != 1:
        return own, ()
    names, found = read_class_names(classes), known.pop()
    if rename:
        return own if set(found) <= set(names) else dict.fromkeys(own, names), ()
    if len(found) != len(names) or set(found) & set(names):
        return own, ()
    note = (
        f"its classes are matched by number: the network calls {quote(found[0], 40)}"
        f" {quote(names[0], 40)}"
    )
    return dict.fromkeys(own, names), (note,)


def _number_labels(
    read: Mapping[str, Read],
    own: Mapping[str, tuple[str, ...] | None],
    classes: ClassNames | None,
    rename: bool,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the class numbers of each split, and the names of the classes.

    Numbers mean the classes that their split knows, or else the first split that knows any.
    """
    first = next((each for each in own.values() if each is not None), None)
    found = {label for each in read.values() for label in each.labels}
    labels = {}
    for key, each in read.items():
        meant, where = own[key] or first, describe_split(key)
        labels[key] = name_labels(each.labels, meant, where, found) if meant else each.labels
    if first is not None and classes is not None and not rename:
        _check_known(labels, read_class_names(classes))
    return to_class_numbers(labels, first if classes is None else classes)


def _check_known(labels: Mapping[str, list[Any]], classes: tuple[str, ...]) -> None:
    """Check that a network has the classes of data that names them."""
    odd = sorted({label for each in labels.values() for label in each} - set(classes))
    if odd:
        raise UserError(
            f"data: {quote(odd[0], 40)} is none of the network's {len(classes)} classes,"
            f" {list_names(classes)}; pass (images, labels), with class numbers as labels"
        )


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
        notes = (*notes, NO_TEST_IMAGES)
    assert test is not None
    found = test
    count = len(found.targets)
    return Source(name, classes, side, train, lambda: found, val, notes=notes, test_count=count)


def _stack(read: Read, side: int, channels: int) -> Tensor:
    """Return images (N, C, H, W), square; those of another size become `side` pixels wide."""
    images = read.images
    if read.channels > channels:
        raise UserError("data: training images are grey, others have colours; convert them alike")
    if isinstance(images, Tensor) and images.shape[2] == images.shape[3]:
        return images if images.shape[1] == channels else images.expand(-1, channels, -1, -1)
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
