"""The one error meant for the person at the keyboard."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend. Its text is one line: what was wrong, where, and what to do."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word closest to `word`, or nothing: ``" (did you mean 'seed'?)"``."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def one_line(error: BaseException) -> str:
    """What `error` says, in one line however much it quotes; its type if it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that no memory is left: Python's own, or torch's for a GPU or a CPU, known by its words."""
    words = ("out of memory", "can't allocate memory")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)
