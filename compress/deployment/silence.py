"""Silence around libraries that print."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path


@contextmanager
def silence() -> Iterator[None]:
    """Discard what libraries print, also those in C, which do not know `sys.stdout`."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        kept: dict[int, int] = {}
        for number in (1, 2):
            # The process may have been started without it.
            with suppress(OSError):
                kept[number] = os.dup(number)
        try:
            for number in kept:
                os.dup2(nowhere.fileno(), number)
            yield
        finally:
            for number, copy in kept.items():
                os.dup2(copy, number)
                os.close(copy)
