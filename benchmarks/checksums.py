"""Measure what checksums add to saving and loading a weights file.

    python benchmarks/checksums.py --rounds 20

Each round saves and loads with checksums and without, in turn. torch computes on one thread; while
a file is read, another one verifies its checksums.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import click
import torch

import compress
from compress.models.build import build
from compress.models.checkpoint import Checkpoint, load, save
from compress.recipe.model_spec import ModelSpec
from compress.reporting.tables import Table

SMALL = Path(__file__).parents[1] / "weights" / "fashion-mnist-100k.pth"
# What adds the checksum, and what verifies it.
SEAL, CHECK = (
    "compress.models.tensor_file.seal_archive",
    "compress.models.tensor_file.check_archive",
)


def make_resnet50() -> Checkpoint:
    """Return a ResNet-50 with random weights."""
    torch.manual_seed(0)
    spec, classes = ModelSpec("resnet50"), tuple(map(str, range(1000)))
    model = build(spec, len(classes)).eval()
    return Checkpoint(model, spec, classes, (3, 224, 224), (0.5,) * 3, (0.25,) * 3, "imagenet")


def time_both(
    work: Callable[[], object], part: str, rounds: int, clock: Callable[[], float]
) -> tuple[float, float]:
    """Return the median seconds of some work with a part and without it."""
    found: tuple[list[float], list[float]] = [], []
    for _ in range(rounds + 1):
        contexts: list[AbstractContextManager[object]] = [nullcontext(), patch(part)]
        for times, context in zip(found, contexts, strict=True):
            with context:
                started = clock()
                work()
                times.append(clock() - started)
    # The first round warms up.
    sealed, plain = (statistics.median(times[1:]) for times in found)
    return sealed, plain


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--rounds", default=20, show_default=True)
@click.option("--cpu", is_flag=True, help="Count CPU seconds of all threads: for a busy machine.")
def main(rounds: int, cpu: bool) -> None:
    """Print the table."""
    clock = time.process_time if cpu else time.perf_counter
    torch.set_num_threads(1)
    rows = []
    with TemporaryDirectory() as folder:
        for name, known in (("100k", compress.load(SMALL)), ("ResNet-50", make_resnet50())):
            path = Path(folder) / "model.pth"
            save(known, path)
            for what, work, part in (
                ("save", partial(save, known, path), SEAL),
                ("load", partial(load, path), CHECK),
            ):
                sealed, plain = time_both(work, part, rounds, clock)
                cells = [f"{1000 * sealed:.1f}", f"{1000 * plain:.1f}", f"{sealed / plain:.3f}"]
                rows.append([f"{what} {name}", f"{path.stat().st_size:,}", *cells])
    columns = ["what", "bytes", "with, ms", "without, ms", "ratio"]
    print(Table(columns, rows, left=1).as_markdown())


if __name__ == "__main__":
    main()
