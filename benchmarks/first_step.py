"""Time `compress run` until its first training step, for `speed.py`.

    python benchmarks/first_step.py BEGAN ARGUMENTS…

Runs the real command with ARGUMENTS, and exits when its first batch is ready. Prints the seconds
since BEGAN (time.monotonic of the process that started this one), the seconds of `import torch,
torchvision`, and the seconds of reading the data. torchvision costs nearly as much as torch,
because it imports torch's compiler.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock


class Clock:
    """Adds up the durations of all calls of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *values: Any, **named: Any) -> Any:
        began = time.monotonic()
        try:
            return self.function(*values, **named)
        finally:
            self.seconds += time.monotonic() - began


def main() -> None:
    began, arguments = float(sys.argv[1]), sys.argv[2:]
    importing = Clock(__import__)
    for package in ("torch", "torchvision"):
        importing(package)

    from compress.cli import terminal
    from compress.cli.main import main as command
    from compress.data import dataset, open_dataset, sources

    def finish(self: object, batches: Iterable[object], total: int, label: str) -> None:
        next(iter(batches))
        seconds = sum(clock.seconds for clock in reading.values())
        print("\nseconds", time.monotonic() - began, importing.seconds, seconds, flush=True)
        # The measured part of the command is over.
        os._exit(0)

    # Reading ends with the checksum and the normalization of the images.
    names = ("open_pool", "measure_normalization", "checksum_images")
    measured: dict[str, Any] = {name: Clock(getattr(dataset, name)) for name in names}
    listing = Clock(sources.open_source)
    reading = {"open_source": listing, **measured}
    with (
        mock.patch.multiple(dataset, **measured),
        mock.patch.object(open_dataset, "open_source", listing),
        mock.patch.object(terminal.Terminal, "progress", finish),
    ):
        command(["run", *arguments])


if __name__ == "__main__":
    main()
