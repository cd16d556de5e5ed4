"""Names of the classes of datasets, also of those that others wrap or join."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset

from compress.data.labels import read_class_names
from compress.runtime.errors import UserError


def find_class_names(
    data: Any, label: Any, where: str, *, named: bool = False
) -> tuple[str, ...] | None:
    """Return the names of the classes that a dataset knows, in the order of their numbers.

    Args:
        label: key of the label in an item.
        where: the split, for messages.
        named: the names were passed: if datasets are joined whose own differ, these are not known.

    Raises:
        UserError: datasets are joined whose classes have different names.
    """
    names = _read_own_names(data, label)
    if names is not None:
        return names
    if isinstance(data, ConcatDataset):
        found = [find_class_names(each, label, where, named=named) for each in data.datasets]
        known = [each for each in found if each is not None]
        return None if named and len(set(known)) > 1 else _join(known, where)
    inside = getattr(data, "dataset", None)
    return None if inside is None else find_class_names(inside, label, where, named=named)


def _join(known: Sequence[tuple[str, ...]], where: str) -> tuple[str, ...] | None:
    if len(set(known)) > 1:
        odd = sorted(set().union(*known) - set(known[0]).intersection(*known))
        why = f"{odd[0]!r} is not in all" if odd else "they are in another order"
        raise UserError(
            f"{where}: datasets with different classes are joined ({why}); pass classes=, if"
            " numbers mean the same in each, or (images, labels) with names as labels"
        )
    return known[0] if known else None


def _read_own_names(data: Any, label: Any) -> tuple[str, ...] | None:
    features = getattr(data, "features", None)
    column = features.get(label) if isinstance(features, Mapping) else None
    names = getattr(column, "names", None)
    if names is None:
        names = getattr(data, "classes", None)
    if isinstance(names, Mapping):
        with suppress(UserError):
            return read_class_names(names)
    if isinstance(names, np.ndarray) and names.dtype.kind in "UO":
        names = names.tolist()
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        return None
    # ImageNet's classes have several names each.
    return read_class_names([each[0] if isinstance(each, tuple) else each for each in names])
