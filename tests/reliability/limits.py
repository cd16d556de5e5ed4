"""A process that may take a gigabyte, and twenty seconds of processor time for each file."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from compress.runtime.errors import UserError

BYTES, SECONDS = 2**30, 20


def read_limited(read: Callable[[Path], object], paths: Sequence[Path]) -> list[str | None]:
    """Read files in a process of its own, and return the message with which each is refused.

    The message is None for a file that is not refused.
    """
    # Importing torch would take longer than reading.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_read, args=(read, paths, sender))
    process.start()
    sender.close()
    messages: list[str | None] = []
    while len(messages) < len(paths):
        try:
            messages.append(receiver.recv())
        except EOFError:
            break
    process.join()
    where = paths[min(len(messages), len(paths) - 1)].name
    assert process.exitcode == 0, f"ended with {process.exitcode} at {where}"
    return messages


def _read(read: Callable[[Path], object], paths: Sequence[Path], sender: Connection) -> None:
    status = Path("/proc/self/status").read_text().splitlines()
    (used,) = [1024 * int(line.split()[1]) for line in status if line.startswith("VmData:")]
    resource.setrlimit(resource.RLIMIT_DATA, (used + BYTES, used + BYTES))
    for path in paths:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        until = round(spent.ru_utime + spent.ru_stime + SECONDS + 0.5)
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))
        try:
            read(path)
        except UserError as error:
            sender.send(str(error))
        else:
            sender.send(None)
