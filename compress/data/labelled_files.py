"""Sources made of labelled image files, whichever way they were listed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from compress.data.decode import read_size
from compress.data.source import Files, Source
from compress.data.splits import split_groups, split_rows
from compress.runtime.errors import UserError

# Fraction of the images that is held out if there is no test split.
TEST_FRACTION = 0.2

# Range of the side in pixels to which images are resized by default, and images that decide it.
MIN_SIZE, MAX_SIZE, MEASURED_FILES = 32, 224, 200


def make_source(
    name: str,
    classes: tuple[str, ...],
    splits: Mapping[str, Files],
    notes: Iterable[str] = (),
    groups: Tensor | None = None,
) -> Source:
    """Return the source of image files in splits: ``train``, and ``val`` or ``test`` or both.

    Without ``test``, ``val`` is the test split. Without both, a fifth of each class is held out.

    Args:
        groups: group of each training image, int64 (N,), if there are near-duplicates; those of one
            group stay on one side of a split.

    Raises:
        UserError: there is no training split, or it has too few images to hold some out.
    """
    if "train" not in splits:
        raise UserError(f"{name}: no training images; splits found: {', '.join(splits)}")
    train, val, test = splits["train"], splits.get("val"), splits.get("test")
    held_out = val is None and test is None
    if held_out:
        chosen, rest = _hold_out(name, train, groups)
        train, test = train.take(rest), train.take(chosen)
        groups = None if groups is None else groups[rest]
    if test is None:
        val, test = None, val
    assert test is not None
    found = test
    return Source(
        name,
        classes,
        choose_image_size(train),
        train,
        test=lambda: found,
        val=val,
        notes=tuple(notes),
        groups=groups,
        held_out=held_out,
    )


def _hold_out(name: str, images: Files, groups: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the rows that are held out as the test split, and the other rows."""
    total = len(images.names)
    if total < 2:
        raise UserError(f"{name}: too few images to hold some out for a test split")
    count = max(1, round(TEST_FRACTION * total))
    if groups is None:
        return split_rows(images.targets, count, seed=0)
    chosen, rest = split_groups(images.targets, groups, count, seed=0)
    if len(chosen) == 0:
        raise UserError(f"{name}: too few groups to hold some out for a test split")
    return chosen, rest


def to_numbers(labels: Iterable[str], classes: tuple[str, ...]) -> Tensor:
    """Return the class number of each label: int64 (N,)."""
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[label] for label in labels], dtype=torch.int64)


def choose_image_size(files: Files) -> int:
    """Choose the side to which images are resized, in pixels: 224, or less if most are smaller.

    It is the median of the shorter sides of some of the files, rounded down to a multiple of 16.
    Only their headers are read.
    """
    step = max(len(files.names) // MEASURED_FILES, 1)
    sides: list[int] = []
    for name in files.names[::step]:
        # Files that cannot be read are found and named later.
        if size := read_size(files.root / name):
            sides.append(min(size))
    if not sides:
        return MAX_SIZE
    middle = int(statistics.median_low(sides))
    return min(max(middle // 16 * 16, MIN_SIZE), MAX_SIZE)
