"""Contexts that keep other packages quiet; threads may be in them at once.

Standard error and the filters of warnings belong to the process. If each thread changed them by
itself, one could restore what it found changed by another, for good.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from PIL import Image


class SharedContext:
    """A context that the first thread to come enters, and that the last one to go leaves.

    Args:
        make: makes the context.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self.make, self.lock, self.inside = make, threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.context = self.make()
                self.context.__enter__()
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.context.__exit__(None, None, None)


@contextmanager
def _discard_stderr() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:
        # There is no standard error.
        yield
        return
    discard = os.open(os.devnull, os.O_WRONLY)
    os.dup2(discard, 2)
    os.close(discard)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


# Discards what C code writes to standard error: libjpeg warns of flaws in files by itself.
silent_stderr = SharedContext(_discard_stderr)

# Ignores warnings; that of an image too large is an error.
no_warnings = SharedContext(_ignore_warnings)
