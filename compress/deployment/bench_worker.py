"""The process of one model in a benchmark: reads orders from standard input, answers in JSON.

torch is imported for weights files alone, so that memory is that of the file's own runtime.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.deployment.formats import Infer, fill_size, find_format, open_exported
from compress.runtime.errors import UserError, one_line

WARMUP_RUNS = 5
MAX_RUNS = 1000


def main() -> None:
    """Serve orders ``BATCH_SIZE RUNS`` until standard input ends."""
    path, threads, seconds, image_size, *builders = sys.argv[1:]
    # Whatever a library prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**content: object) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        infer, input_size, dtype = _open(Path(path), int(threads), int(image_size), builders)
        answer(ready=True)
        for line in sys.stdin:
            batch_size, runs = map(int, line.split())
            images: NDArray[Any] = np.zeros((batch_size, *input_size), dtype)
            if not runs:
                _time(infer, images, WARMUP_RUNS)
                one = min(_time(infer, images, WARMUP_RUNS)[0])
                answer(runs=max(3, min(MAX_RUNS, int(float(seconds) / max(one, 1e-9)))))
                continue
            wall, cpu = _time(infer, images, runs + 1)
            answer(seconds=wall[1:], cpu_seconds=cpu[1:], peak_bytes=_peak_bytes())
    except (UserError, OSError, MemoryError) as error:
        answer(error=str(error))
    except Exception as error:  # a network or a runtime may raise anything
        answer(error=one_line(error))


def _time(infer: Infer, images: NDArray[Any], runs: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each run, and those of the processor."""
    wall, cpu = [], []
    for _ in range(runs):
        started, start = time.process_time(), time.perf_counter()
        infer(images)
        wall.append(time.perf_counter() - start)
        # A clock that is too coarse shows nothing.
        cpu.append(max(time.process_time() - started, 1e-9))
    return wall, cpu


def _open(
    path: Path, threads: int, image_size: int, builders: list[str]
) -> tuple[Infer, tuple[int, int, int], type]:
    """Return a model as a function, the size of its images, and their type."""
    if find_format(path) is not None:
        runner = open_exported(path, threads)
        known = runner.description
        size = known.input_size if known else fill_size(runner.input_size, image_size or None)
        return runner.infer, size, np.uint8 if runner.uint8 else np.float32

    import torch

    from compress.deployment.load_model import choose_builder
    from compress.models.checkpoint import load
    from compress.models.fuse_bn import fuse_conv_bn
    from compress.models.memory_format import to_channels_last

    torch.set_num_threads(threads)
    checkpoint = load(path, choose_builder(path, builders))
    model = to_channels_last(fuse_conv_bn(checkpoint.model))

    def infer(images: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            logits: NDArray[Any] = model(torch.from_numpy(images)).numpy()
            return logits

    return infer, checkpoint.input_size, np.float32


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        # On Linux, getrusage also counts what the parent held when it started this process.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
