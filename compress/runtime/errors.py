"""User errors: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can fix. Its message is one line; commands exit with code 2."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint that names the known word closest to `word`, or an empty string.

    Example:
        >>> did_you_mean("sead", ["seed", "batch_size"])
        " (did you mean 'seed'?)"
    """
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_line(error: BaseException, limit: int = 200) -> str:
    """Return the message of `error` as one line of at most so many characters, or its type's name.

    The messages of this package end in what to do, and take more than others.
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__


def quote(value: object, limit: int = 200) -> str:
    """Return a value as a message shows it: as Python writes it, cut after so many characters.

    Names and values come from files, and may be of any length.

    Example:
        >>> quote("resnet18"), quote("a" * 99, limit=3)
        ("'resnet18'", "'aaa…'")
    """
    if isinstance(value, str):
        return repr(value if len(value) <= limit else f"{value[:limit]}…")
    return repr(value)[:limit]


def describe_type(found: object) -> str:
    """Return what an object is, in a few words that need no article.

    Example:
        >>> describe_type(3), describe_type(int), describe_type(None)
        ('an object of type int', 'the class int', 'None')
    """
    if found is None:
        return "None"
    if isinstance(found, type):
        return f"the class {found.__name__}"
    return f"an object of type {type(found).__name__}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if `error` is Python's MemoryError, or torch's error for a full device."""
    messages = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in messages)
