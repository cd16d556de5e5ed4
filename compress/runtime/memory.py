"""The memory that training frees, and needs again a moment later."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Parameters of glibc's mallopt.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
MIB = 2**20


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory in the process, for the next training step, until the context ends.

    By default, glibc returns large blocks to the system at once, and gets them back page by page,
    filled with zeros, which takes a good part of a small network's training step on a CPU. Other C
    libraries are left as they are.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    # The largest block that need not be a mapping of its own.
    libc.mallopt(MMAP_THRESHOLD, 32 * MIB)
    libc.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        libc.mallopt(TRIM_THRESHOLD, 64 * MIB)
        libc.malloc_trim(0)
