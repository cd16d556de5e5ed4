"""How long `compress run` takes until its first training step, for `speed.py`.

    python benchmarks/first_step.py BEGAN ARGUMENTS…

The real command with these ARGUMENTS, stopped when its first batch is there. Prints the seconds since BEGAN (of
time.monotonic, in the process that started this one), those of `import torch, torchvision` and those of loading the
data. torchvision is most of torch once more: it imports torch's compiler.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock


class Reached(Exception):
    """The first batch is there."""


class Clock:
    """Adds up what the calls of one function take."""

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
    from compress.pipeline import plan

    def stop(self: object, batches: Iterable[object], total: int, label: str) -> Iterable[object]:
        next(iter(batches))
        raise Reached

    loading = Clock(plan.open_dataset)
    with (
        mock.patch.object(plan, "open_dataset", loading),
        mock.patch.object(terminal.Terminal, "track", stop),
    ):
        try:
            command(["run", *arguments])
        except Reached:
            print("\nseconds", time.monotonic() - began, importing.seconds, loading.seconds)


if __name__ == "__main__":
    main()
