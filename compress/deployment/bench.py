"""Benchmarks: models take turns, each in a process of its own, and are compared round by round.

A process has one model, so that neither memory nor threads are shared. Only one of them computes at
a time. In each round every model gets the same number of images; what else the machine does slows
the models of a round alike, so ratios are medians over rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.runtime.arguments import require_threads
from compress.runtime.errors import UserError

ROUNDS = 20
# Seconds of one model in one round, about.
ROUND_SECONDS = 0.05


@dataclass(frozen=True)
class Timing:
    """The time of one file for batches of one size.

    Args:
        p50, p90: seconds for a batch: median, and the time that nine of ten stay below.
        ratio: how many times as fast as the first file: of each round's fastest batches, which
            other load disturbs least, and the median over rounds. With one thread it is of
            processor time, which leaves out the time in which other programs have the core.
        peak_bytes: most memory that the process held.
    """

    file: Path
    threads: int
    batch_size: int
    p50: float
    p90: float
    ratio: float
    peak_bytes: int

    @property
    def images_per_second(self) -> float:
        """Images per second at the median."""
        return self.batch_size / self.p50


def bench_files(
    files: Sequence[str | Path],
    *,
    threads: Sequence[int] = (1,),
    batch_sizes: Sequence[int] = (1,),
    builders: Sequence[str] = (),
    image_size: int | None = None,
    rounds: int = ROUNDS,
) -> list[Timing]:
    """Time weights files and exported files side by side, on the CPU.

    Args:
        files: the first one is what the others are compared with.
        threads: numbers of threads; each gives a row per file.
        batch_sizes: images in a batch; each gives a row per file.
        builders: ``package.module:function`` that build the networks of files with ``custom`` ones.
        image_size: side of the images, for files that leave it open.

    Returns:
        The files in their order, for each number of threads and each batch size.

    Raises:
        UserError: a file cannot be used, or this machine has fewer cores than one of `threads`.
    """
    for count in threads:
        require_threads(count)
    paths = [Path(file) for file in files]
    rest = [str(ROUND_SECONDS), str(image_size or 0), *builders]
    found = []
    for count in threads:
        with ExitStack() as stack:
            workers = [
                stack.enter_context(_worker([str(path), str(count), *rest])) for path in paths
            ]
            for batch_size in batch_sizes:
                found += _take_turns(workers, paths, count, batch_size, rounds)
    return found


def _take_turns(
    workers: Sequence[_Worker], paths: Sequence[Path], threads: int, batch_size: int, rounds: int
) -> list[Timing]:
    # The first answer is the number of batches that fill a model's part of a round.
    runs = [worker.ask(batch_size, 0)["runs"] for worker in workers]
    rows: list[list[float]] = [[] for _ in workers]
    fastest: list[list[float]] = [[] for _ in workers]
    peaks = [0] * len(workers)
    for _ in range(rounds):
        for i, worker in enumerate(workers):
            answer = worker.ask(batch_size, runs[i])
            rows[i] += answer["seconds"]
            fastest[i].append(min(answer["cpu_seconds" if threads == 1 else "seconds"]))
            peaks[i] = answer["peak_bytes"]
    timings = []
    for path, row, best, peak in zip(paths, rows, fastest, peaks, strict=True):
        seconds = sorted(row)
        ratios = [first / own for first, own in zip(fastest[0], best, strict=True)]
        timings.append(
            Timing(
                file=path,
                threads=threads,
                batch_size=batch_size,
                p50=statistics.median(seconds),
                p90=seconds[9 * len(seconds) // 10],
                ratio=statistics.median(ratios),
                peak_bytes=peak,
            )
        )
    return timings


@dataclass(frozen=True)
class _Worker:
    """A process that has one model."""

    path: str
    process: subprocess.Popen[str]

    def ask(self, batch_size: int, runs: int) -> dict[str, Any]:
        """Let the model compute so many batches; 0 finds out how many fill its part of a round."""
        assert self.process.stdin and self.process.stdout
        # If the process has ended, reading says so.
        with suppress(BrokenPipeError):
            print(batch_size, runs, file=self.process.stdin, flush=True)
        return self.read()

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            # The message of a file names it already.
            prefix = "" if self.path in answer["error"] else f"{self.path}: "
            raise UserError(f"{prefix}{answer['error']}")
        return answer


@contextmanager
def _worker(words: Sequence[str]) -> Iterator[_Worker]:
    process = subprocess.Popen(
        [sys.executable, "-m", "compress.deployment.bench_worker", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    worker = _Worker(words[0], process)
    try:
        worker.read()
        yield worker
    finally:
        process.kill()
        process.communicate()
