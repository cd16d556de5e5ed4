"""Checks of arguments from Python, such as paths, names and sizes. Does not import torch."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from operator import index
from pathlib import Path
from typing import Any, SupportsIndex

from compress.runtime.device import count_cores
from compress.runtime.errors import UserError, describe_type

# Instead of a module, to functions that need to know its classes and its images.
CHECKPOINT = "a weights file, or a checkpoint; compress.save(MODULE, FILE, classes=…) makes both"


def require_path(found: Any, what: str = "file", remedy: str = CHECKPOINT) -> Path:
    """Return a path.

    Args:
        what: the argument, in messages.
        remedy: what to pass.

    Raises:
        UserError: it is something else, such as a module.
    """
    if isinstance(found, str | os.PathLike):
        return Path(found)
    raise UserError(f"{what}: {describe_type(found)} is no path; pass {remedy}")


def require_name(found: Any, what: str, example: str) -> str:
    """Return a name, which a recipe or a command could hold, too.

    Raises:
        UserError: it is something else, such as a module or arrays.
    """
    if isinstance(found, str):
        return found
    raise UserError(f"{what}: {describe_type(found)} is no name; pass one, as {example}")


def require_side(found: Any, what: str = "image_size") -> int:
    """Return the side of square images, in pixels.

    Raises:
        UserError: it is no whole number above 0.
    """
    if isinstance(found, int) and not isinstance(found, bool) and found > 0:
        return found
    raise UserError(f"{what} = {found!r}: pass the side of square images in pixels, as 224")


def require_threads(found: Any) -> int:
    """Return a number of threads of a runtime.

    Raises:
        UserError: it is no whole number above 0, or more than this process has cores: the threads
            of some runtimes wait for each other without end then.
    """
    cores = count_cores()
    if (
        isinstance(found, SupportsIndex)
        and not isinstance(found, bool)
        and 0 < index(found) <= cores
    ):
        return index(found)
    raise UserError(
        f"{found!r} threads: pass a whole number from 1 to {cores}, the number of cores here"
    )


def require_input_size(found: Any) -> tuple[int, int, int]:
    """Return the size of an image, (C, H, W).

    Raises:
        UserError: it is no tuple of three whole numbers.
    """
    whole = isinstance(found, tuple | list) and all(isinstance(side, int) for side in found)
    if whole and len(found) == 3 and min(found) > 0:
        return found[0], found[1], found[2]
    shown = repr(found) if isinstance(found, tuple | list) else describe_type(found)
    raise UserError(f"input_size: {shown} is not the size of an image; pass (C, H, W)")


def read_normalization(mean: Any, std: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return a mean and a standard deviation by channel: one value each, or three.

    Raises:
        UserError: these are no such values, or a standard deviation is not above 0.
    """
    read = read_channel_values(mean, "mean"), read_channel_values(std, "std")
    if min(read[1]) <= 0:
        raise UserError(f"std = {std!r}: must be above 0 in every channel")
    return read


def read_channel_values(found: Any, what: str) -> tuple[float, ...]:
    """Return a mean or a standard deviation by channel: one value, or three.

    Raises:
        UserError: these are no finite numbers, or another number of them.
    """
    values = found if isinstance(found, Iterable) and not isinstance(found, str) else [found]
    try:
        read = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        read = ()
    if len(read) not in (1, 3) or not all(map(math.isfinite, read)):
        raise UserError(f"{what} = {found!r}: give one value, or three, as [0.5, 0.5, 0.5]")
    return read
