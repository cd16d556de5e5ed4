"""Labels in memory: numbers, names or one-hot rows, as class numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.runtime.errors import UserError


def read_targets(labels: Any) -> list[Any]:
    """Return one whole number or one name for each label.

    Args:
        labels: numbers or names, (N,) or (N, 1); or rows of one-hot values or probabilities, (N,
            classes).

    Raises:
        UserError: a label is neither.
    """
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().numpy()
    elif not isinstance(labels, np.ndarray):
        labels = np.array([each.item() if _is_scalar(each) else each for each in labels])
    if labels.ndim == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else labels.argmax(axis=1)
    if labels.ndim != 1 or labels.dtype.kind not in "iufbUO":
        raise UserError(f"labels of type {labels.dtype}, shape {labels.shape}: pass numbers (N,)")
    if labels.dtype.kind == "f":
        if not bool((labels == np.round(labels)).all()):
            raise UserError("labels: they are not whole numbers; pass the numbers of classes")
        labels = labels.astype(np.int64)
    found: list[Any] = labels.tolist()
    return [int(each) if isinstance(each, bool) else each for each in found]


def to_class_numbers(
    labels: Mapping[str, list[Any]], classes: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Convert the labels of each split to class numbers, int64 (N,).

    Args:
        labels: numbers from 0, or names, by split; the training images' are under "train".
        classes: names of the classes, in order; those found, sorted, or numbers, if left out.

    Raises:
        UserError: a label is not one of the classes.

    Example:
        >>> to_class_numbers({"train": ["dog", "cat", "dog"]})
        ({'train': tensor([1, 0, 1])}, ('cat', 'dog'))
    """
    named = isinstance(labels["train"][0], str)
    if classes is None:
        found = set(labels["train"])
        if not named and (min(found) < 0 or len(found) <= max(found) // 2):
            raise UserError(
                f"labels {min(found)} to {max(found)}, {len(found)} different ones: number the"
                " classes from 0, or pass names"
            )
        classes = sorted(found) if named else [str(number) for number in range(max(found) + 1)]
    names = tuple(str(each) for each in classes)
    if len(set(names)) < len(names):
        raise UserError("classes: their names must be distinct")
    numbers = {name: number for number, name in enumerate(names)}
    targets = {}
    for split, each in labels.items():
        for label in set(each):
            if (label not in numbers) if named else not 0 <= label < len(names):
                raise UserError(f"data, {split}: label {label!r} is none of {len(names)} classes")
        targets[split] = torch.tensor([numbers[x] for x in each] if named else each)
    return targets, names


def _is_scalar(found: Any) -> bool:
    return isinstance(found, Tensor | np.ndarray | np.generic) and getattr(found, "ndim", 0) == 0
