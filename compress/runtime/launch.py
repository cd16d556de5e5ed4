"""Processes of one run on this machine: started together, watched, and ended together.

Does not import torch. torchrun does the same for several machines, but ends in a report of its own,
in which the line that matters stands in the middle.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from compress.runtime.device import count_cores
from compress.runtime.distributed import RESUME_HINT

# Lines that end a process; they are held back until all have ended.
LAST_LINES = ("error: ", "stopped")
# Seconds in which processes end that are told to.
PATIENCE = 30


@dataclass
class _Worker:
    rank: int
    process: subprocess.Popen[str]
    last_lines: list[str] = field(default_factory=list)


def launch(words: Sequence[str], processes: int, echo: Callable[[str], None]) -> tuple[int, str]:
    """Run Python with `words` in several processes that share every batch.

    If one of them dies, the others are ended.

    Args:
        words: arguments of Python, as ``-m compress run``.
        echo: called with each line of their standard error, except for the last ones.

    Returns:
        The exit code, and one line that says why it is not 0; empty if it is.
    """
    port = _free_port()
    workers = [_start(rank, processes, words, port) for rank in range(processes)]
    readers = [threading.Thread(target=_read, args=(worker, echo)) for worker in workers]
    for reader in readers:
        reader.start()
    try:
        first = _wait(workers)
    finally:
        # Also after Ctrl-C and SIGTERM, which the caller reports.
        _end(workers)
        for reader in readers:
            reader.join()
    return (0, "") if first is None else _explain(first, workers)


def _start(rank: int, processes: int, words: Sequence[str], port: int) -> _Worker:
    threads = max(1, count_cores() // processes)
    own = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    environment = {"OMP_NUM_THREADS": str(threads)} | dict(os.environ)
    process = subprocess.Popen(
        [sys.executable, *words],
        env=environment | {name: str(value) for name, value in own.items()},
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
    )
    return _Worker(rank, process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read(worker: _Worker, echo: Callable[[str], None]) -> None:
    assert worker.process.stderr is not None
    for line in worker.process.stderr:
        text = line.rstrip("\n")
        if text.startswith(LAST_LINES):
            worker.last_lines.append(text)
        else:
            echo(text)


def _wait(workers: Sequence[_Worker]) -> _Worker | None:
    """Wait until all processes have ended, or one has failed; return the first that did."""
    while True:
        codes = [worker.process.poll() for worker in workers]
        failed = [worker for worker, code in zip(workers, codes, strict=True) if code]
        if failed:
            # One that was killed is the cause; others only lost it.
            return min(failed, key=lambda worker: worker.process.returncode)
        if None not in codes:
            return None
        time.sleep(0.05)


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.terminate()
    until = time.monotonic() + PATIENCE
    for worker in workers:
        try:
            worker.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def _explain(first: _Worker, workers: Sequence[_Worker]) -> tuple[int, str]:
    code = first.process.returncode
    if code < 0:
        name = signal.Signals(-code).name
        cause = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return 2, f"error: process {first.rank} was ended by {name}{cause}; {RESUME_HINT}"
    lines = [line for worker in (first, *workers) for line in worker.last_lines]
    return code, next(iter(lines), f"error: process {first.rank} failed, see above")
