"""Objects in memory under names that a recipe can hold. Does not import torch.

A recipe is plain data. An object that is passed from Python, such as a data set, a network or a
loss, gets a name with a fingerprint of its content, ``memory:TinyNet-3f0c92ab61de``. While a run is
under way, that name leads to the object. A recipe that is read later has only the name: it still
says whether the same object is passed again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compress.runtime.errors import UserError, quote

MEMORY = "memory:"

_held: dict[str, Any] = {}


@contextmanager
def holding() -> Iterator[None]:
    """Forget at the end of the block what `hold` was given in it."""
    before = dict(_held)
    try:
        yield
    finally:
        _held.clear()
        _held.update(before)


def hold(name: str, found: Any) -> str:
    """Keep an object under a name, and return the name; for use in a block of `holding`."""
    _held[name] = found
    return name


def is_in_memory(name: object) -> bool:
    """Return True if `name` is that of an object in memory.

    Example:
        >>> is_in_memory("memory:TinyNet-3f0c92ab61de"), is_in_memory("resnet18")
        (True, False)
    """
    return isinstance(name, str) and name.startswith(MEMORY)


def find_held(name: str) -> Any:
    """Return the object of a name.

    Raises:
        UserError: no such object has been passed.
    """
    if name not in _held:
        raise UserError(
            f"{quote(name)} was an object in memory; pass it again in Python, to compress.run, or"
            " to compress.load(FILE, model=…)"
        )
    return _held[name]
