"""Measurements that are kept: a number by key, measured once, in a file of JSON lines."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path


class Measurements:
    """Numbers above zero by key. A number that is kept never changes.

    Each is appended to the file as it comes, so that a killed process loses none. Lines that do not
    hold a key and a number, or not those that were written, are passed over.

    Args:
        path: the file; None keeps the numbers in memory. So does a folder that cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._known = dict(_read(path)) if path else {}

    def get(self, key: str, measure: Callable[[], float]) -> float:
        """Return the number of `key`, after measuring it if it is not known."""
        if key not in self._known:
            self._known[key] = measure()
            self._append(key)
        return self._known[key]

    def clear(self) -> None:
        """Forget all numbers, and remove the file."""
        self._known.clear()
        if self.path:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _append(self, key: str) -> None:
        if self.path is None:
            return
        # The line before may be half a line of a process that was killed.
        number = self._known[key]
        line = f"\n{json.dumps([key, number, _checksum(key, number)])}\n"
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)


def _read(path: Path) -> Iterator[tuple[str, float]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    # Of two processes that measured the same, the first counts.
    for line in reversed(lines):
        with suppress(ValueError, TypeError):
            # Lines of earlier releases have no checksum.
            key, number, *seal = json.loads(line)
            intact = not seal or seal == [_checksum(key, number)]
            known = isinstance(key, str) and isinstance(number, float)
            if known and intact and 0 < number < math.inf:
                yield key, number


def _checksum(key: str, number: float) -> str:
    return f"{zlib.crc32(json.dumps([key, number]).encode()):08x}"
