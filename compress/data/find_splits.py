"""The splits of data in memory: by position, by name, or as columns such as x_train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import DataLoader, Dataset

from compress.data.arrays import is_array
from compress.data.read_split import IMAGE_KEYS, LABEL_KEYS, is_arrays_pair
from compress.data.split_names import SPLIT_NAMES, split_of
from compress.runtime.errors import UserError

# Names of columns, and what they hold.
COLUMNS = dict.fromkeys((*IMAGE_KEYS, "x", "data"), "images") | dict.fromkeys(LABEL_KEYS, "labels")


def find_splits(data: Any) -> list[tuple[str, Any]]:
    """Return the splits of data in memory by name, "train" first.

    Raises:
        UserError: names are not those of splits, or several arrays may stand for anything.

    Example:
        >>> [name for name, _ in find_splits({"x_train": x, "y_train": y, "test": test})]
        ['train', 'test']
    """
    if _is_table(data):
        return _name_splits(_pair_columns(data))
    several = isinstance(data, tuple | list) and len(data) in (4, 6)
    if several and all(map(is_array, data)):
        raise UserError(
            f"data: {len(data)} arrays; pass ((train images, labels), (val images, labels))"
        )
    if _may_be_splits(data) and not is_arrays_pair(data):
        named = zip(("train", "val", "test"), data, strict=False)
        return [(name, _pair(split)) for name, split in named]
    return [("train", data)]


def _is_table(data: Any) -> bool:
    """Return True for mappings; datasets with columns have `features`."""
    return isinstance(data, Mapping) and not hasattr(data, "features")


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
            raise UserError(
                f"data: {key!r} is no split, or comes twice; name the splits train, val, test, or"
                " pass (images, labels)"
            )
        found[role] = _pair(split)
    if "train" not in found:
        raise UserError(f"data: no train split among {', '.join(map(str, data))}")
    return [(role, found[role]) for role in SPLIT_NAMES if role in found]


def _pair(split: Any) -> Any:
    """Return the images and labels of a split that is a mapping of columns, else the split."""
    found = _pair_columns(split) if _is_table(split) else {}
    return found["train"] if list(found) == ["train"] else split


def _pair_columns(data: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a mapping with (images, labels) by split in place of two columns.

    Beside such a pair, what is neither a split nor a column, such as ``id``, is passed over.
    """
    rest = dict(data)
    columns = {_read_key(str(key).lower()): key for key in data}
    pairs = {
        split: (rest.pop(key), rest.pop(columns[split, "labels"]))
        for (split, column), key in columns.items()
        if column == "images" and (split, "labels") in columns and split not in data
    }
    return pairs | {key: split for key, split in rest.items() if not pairs or _is_meant(str(key))}


def _is_meant(key: str) -> bool:
    """Return True for a split, or a column that lacks the other of its pair."""
    return split_of(key) is not None or _read_key(key.lower())[1] is not None


def _read_key(key: str) -> tuple[str, str | None]:
    """Return the split and the column that a key names, as ``test_labels``."""
    first, _, last = key.partition("_")
    for split, column in ((first, last), (last, first)):
        if role := split_of(split):
            return role, COLUMNS.get(column)
    return "train", COLUMNS.get(key)
