"""Labels in memory: numbers, names or one-hot rows, as class numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.runtime.errors import UserError, quote
from compress.runtime.text import normalize_name

# Names of classes in order, their number, or a mapping of names to numbers or of numbers to names.
ClassNames = Sequence[str] | Mapping[str, int] | Mapping[int, str] | int

# Sums of probabilities this far from 1 are rounding errors.
ROUNDING = 1e-2


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
    elif hasattr(labels, "__array__"):
        labels = np.asarray(labels)
    else:
        labels = np.array([each.item() if _is_scalar(each) else each for each in labels])
    if labels.ndim == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else _find_classes(labels)
    if labels.ndim > 2:
        raise UserError(
            f"labels of shape {labels.shape}; pass (images, labels) for each split, with one label"
            " for each image"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iufbUO":
        raise UserError(f"labels of type {labels.dtype}, shape {labels.shape}: pass numbers (N,)")
    if labels.dtype.kind == "f":
        if not bool((labels == np.round(labels)).all()):
            raise UserError("labels: they are not whole numbers; pass the numbers of classes")
        labels = labels.astype(np.int64)
    found: list[Any] = labels.tolist()
    kinds = {type(each) for each in found}
    if len(kinds) > 1 or not kinds <= {int, bool, str}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UserError(f"labels of type {names}; pass numbers, or names, one for each image")
    return [normalize_name(each) if isinstance(each, str) else int(each) for each in found]


def _find_classes(rows: Any) -> Any:
    """Return the numbers of the likeliest classes, (N,), of rows (N, classes)."""
    sums = rows.sum(axis=1) if rows.dtype.kind in "iufb" else np.zeros(0)
    if not (len(sums) and (rows >= 0).all() and np.allclose(sums, 1, atol=ROUNDING)):
        raise UserError(
            "labels: rows with several classes, or none; an image has one class: pass its number, a"
            " one-hot row, or probabilities"
        )
    return rows.argmax(axis=1)


def read_class_names(classes: ClassNames) -> tuple[str, ...]:
    """Return the names of classes in the order of their numbers.

    Args:
        classes: their names in order; a mapping of names to numbers, or of numbers to names; or how
            many there are.

    Raises:
        UserError: they are something else, or numbers are missing.

    Example:
        >>> read_class_names({"cat": 1, "dog": 0}), read_class_names({0: "dog", 1: "cat"})
        (('dog', 'cat'), ('dog', 'cat'))
    """
    found: Any = range(classes) if isinstance(classes, int) else classes
    if isinstance(found, Mapping):
        found = _sort_by_number(found)
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise UserError(f"classes: {found!r}: pass the names of all classes")
    return tuple(normalize_name(str(each)) for each in found)


def name_labels(
    labels: list[Any], names: tuple[str, ...], where: str, found: Collection[Any]
) -> list[Any]:
    """Replace the numbers of classes, from 0, by their names; names stay as they are.

    Names may be numbers themselves, as 1 to N: labels are these if they cannot be from 0.

    Args:
        found: labels of all splits.

    Raises:
        UserError: a label is not the number of a class.
    """
    numbers = {label for label in found if isinstance(label, int)}
    if {str(label) for label in numbers} <= set(names) and max(numbers, default=0) >= len(names):
        return [str(label) for label in labels]
    for label in sorted(set(labels)):
        if isinstance(label, int) and not 0 <= label < len(names):
            raise UserError(
                f"{where}: label {label} is none of {len(names)} classes, numbered from 0"
            )
    return [names[label] if isinstance(label, int) else label for label in labels]


def _sort_by_number(classes: Mapping[Any, Any]) -> list[Any]:
    numbered = all(isinstance(each, int) for each in classes.values())
    by_number = {number: name for name, number in classes.items()} if numbered else dict(classes)
    if len(by_number) < len(classes) or set(by_number) != set(range(len(by_number))):
        raise UserError(
            f"classes: map the names to the numbers 0 to {len(classes) - 1}, each once, or the"
            " numbers to the names"
        )
    return [by_number[number] for number in range(len(by_number))]


def to_class_numbers(
    labels: Mapping[str, list[Any]],
    classes: ClassNames | None = None,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Convert the labels of each split to class numbers, int64 (N,).

    Args:
        labels: numbers from 0 or 1, or names, by split; the training images' are under "train".
        classes: names of the classes, as `read_class_names` takes them; those found, sorted, or
            numbers, if left out.

    Raises:
        UserError: a label is not one of the classes, or numbers may be from 0 or from 1.

    Example:
        >>> to_class_numbers({"train": ["dog", "cat", "dog"]})
        ({'train': tensor([1, 0, 1])}, ('cat', 'dog'))
    """
    named = isinstance(labels["train"][0], str)
    found = {label for each in labels.values() for label in each}
    if len({type(label) for label in found}) > 1:
        raise UserError("data: labels are numbers in one split and names in another; pass one kind")
    if classes is None:
        trained = set(labels["train"])
        classes = sorted(trained) if named else _number_classes(trained, min(found))
    if isinstance(classes, int) and not named and (min(found), max(found)) == (1, classes):
        classes = _number_classes(found, 1)
    names = read_class_names(classes)
    if len(set(names)) < len(names):
        raise UserError("classes: their names must be distinct")
    first = 0 if named else _first_number(found, names)
    numbers = {name: number for number, name in enumerate(names)}
    targets = {}
    for split, each in labels.items():
        for label in sorted(set(each)):
            if (label not in numbers) if named else not 0 <= label - first < len(names):
                expected = list_names(names) if named else f"numbered from {first}"
                raise UserError(
                    f"{describe_split(split)}: label {label!r} is none of {len(names)} classes,"
                    f" {expected}"
                )
        targets[split] = torch.tensor([numbers[x] if named else x - first for x in each])
    return targets, names


def _number_classes(found: Collection[int], lowest: int) -> list[str]:
    """Return the names of classes that are numbered from `lowest`, 0 or 1."""
    highest = max(found)
    if lowest not in (0, 1) or len(found) <= highest // 2:
        several = f"{len(found)} different labels, from {lowest} to {highest}"
        found_labels = several if len(found) > 1 else f"all labels are {lowest}"
        raise UserError(f"{found_labels}: number the classes from 0, or pass their names")
    return [str(number) for number in range(lowest, highest + 1)]


def _first_number(found: Collection[int], names: tuple[str, ...]) -> int:
    """Return the number of the first class: 1 if the classes are called 1 to N, else 0.

    Such classes may have numbers from 0 even so; the lowest or the highest label tells.
    """
    counted = tuple(str(number) for number in range(1, len(names) + 1))
    if names != counted or 0 in found:
        return 0
    if max(found) < len(names):
        raise UserError(
            f"labels {min(found)} to {max(found)} of classes '1' to {names[-1]!r} may be numbered"
            " from 0 or from 1; pass the names of the classes as labels"
        )
    return 1


def describe_split(split: str) -> str:
    """Return a split as messages name it; a single one is "train"."""
    return "data" if split == "train" else f"data, {split}"


def list_names(names: Sequence[str], most: int = 5) -> str:
    """Return the first names of classes, quoted, for messages."""
    more = ", …" if len(names) > most else ""
    return ", ".join(quote(each, 40) for each in names[:most]) + more


def _is_scalar(found: Any) -> bool:
    return isinstance(found, Tensor | np.ndarray | np.generic) and getattr(found, "ndim", 0) == 0
