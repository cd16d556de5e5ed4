"""Names of splits, as folders, tables and data sets call them."""

from __future__ import annotations

import re

# Usual names of splits, in lower case.
SPLIT_NAMES = {
    "train": ("train", "training", "trainset", "train_set", "seg_train"),
    "val": ("val", "valid", "validation", "valset", "val_set", "dev"),
    "test": ("test", "testing", "testset", "test_set", "seg_test"),
}

# What looks like a split too, but is not clear enough to be taken for one.
LIKE_A_SPLIT = re.compile(
    r"(seg)?[-_. ]?(train(ing)?|val(id(ation)?)?|test(ing)?|dev|eval(uation)?|hold[-_ ]?out)"
    r"[-_. ]?(set|data|dataset|images?|split|folder)?[-_. ]?\(?\d*\)?",
    re.IGNORECASE,
)


def split_of(name: str) -> str | None:
    """Return the split that `name` stands for: ``train``, ``val``, ``test``, or None.

    Example:
        >>> split_of("Validation")
        'val'
    """
    known = (split for split, names in SPLIT_NAMES.items() if name.strip().lower() in names)
    return next(known, None)


def looks_like_split(name: str) -> bool:
    """Return True if `name` is that of a split, or close to one, as ``val2`` and ``test-images``.

    Example:
        >>> looks_like_split("val2"), looks_like_split("valley")
        (True, False)
    """
    return split_of(name) is not None or LIKE_A_SPLIT.fullmatch(name.strip()) is not None
