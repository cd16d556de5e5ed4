"""Kill runs, change bytes of every file, and watch memory, at length; the tests do so in short.

    python benchmarks/reliability.py --kills 200

1. Kills: a small run is killed (SIGKILL) after random times and started again until it is done, and
   once more in a new directory, until there were so many kills. Each must end with the weights and
   figures of a run that nothing disturbed.
2. Rot: in every file of a finished run and of a killed one, single bits are changed: of each of the
   first and the last bytes, and of bytes in between. Whatever reads the file must refuse it.
3. Growth: memory and open files of a process after 10 epochs and after 60.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch

import compress
from compress.deployment.formats import files_of
from compress.experiments.ledger import LEDGER, Entry, read_ledger, write_entry, write_rows
from compress.models.build import import_builder
from compress.models.tensor_file import read_tensors, read_training_file
from compress.pipeline.events import RunEvents
from compress.pipeline.history import read_history
from compress.pipeline.manifest import read_results
from compress.recipe.registry import EXPORT_FORMATS
from compress.reporting.tables import Table
from compress.runtime.checksum import check_file
from compress.runtime.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny import NETWORKS, RECIPE, assert_same, write_folder

# Bytes at both ends of a file of which each is changed, and random ones in between.
ENDS, BETWEEN = 64, 200
READERS: dict[str, Callable[[Path], Any]] = {
    ".pth": read_tensors,
    ".state": read_training_file,
    ".json": lambda path: (read_ledger if path.name == LEDGER else read_results)(path.parent),
    ".jsonl": read_history,
    **dict.fromkeys(
        (".onnx", ".pt2", ".xml", ".pte", ".tflite"),
        lambda path: check_file(path, files_of(path)[1:]),
    ),
    ".bin": lambda path: check_file(path.with_suffix(".xml"), [path]),
}


def main_in_process(recipe: Path, out: Path) -> None:
    """Run, or go on with, a recipe in a process of its own."""
    sys.path.insert(0, str(recipe.parent))
    torch.set_num_threads(1)
    compress.run(str(recipe), out=out)


def run_process(recipe: Path, out: Path, seconds: float | None) -> int:
    """Return the exit code of a run, which is killed after so many seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["compress.pipeline.run"])
    process = context.Process(target=main_in_process, args=(recipe, out))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def count_kills(recipe: Path, straight: Path, seconds: float, kills: int) -> Iterator[list[str]]:
    """Kill runs at random moments of the `seconds` that one takes; yield a row of the table."""
    moments, done, runs = random.Random(0), 0, 0
    while done < kills:
        out = recipe.parent / f"killed{runs}"
        while True:
            code = run_process(recipe, out, moments.uniform(0.2, 0.6) * seconds)
            done += code == -signal.SIGKILL
            if code != -signal.SIGKILL:
                break
        if code:
            raise SystemExit(f"a resumed run ended with exit code {code}")
        assert_same(out, straight)
        shutil.rmtree(out)
        runs += 1
    yield ["kills", f"{done} in {runs} runs", f"{runs} of {runs} end bit for bit the same"]


def write_others(run: Path, out: Path) -> None:
    """Export a run's network to every format that is installed, and write a ledger."""
    for name in EXPORT_FORMATS.names():
        form = EXPORT_FORMATS.load(name)
        if all(map(find_spec, form.packages)):
            builder = import_builder("tinynets:student")
            compress.export(run / "model.pth", name, out / f"net{form.suffix}", builder=builder)
    recipe = read_results(run)[0]["recipe"]
    write_rows(out / "experiment", {"lr=0.1,seed=0": {"lr": "0.1"}})
    write_entry(out / "experiment", "lr=0.1,seed=0", Entry(recipe))


def change_bytes(run: Path, what: str) -> Iterator[list[str]]:
    """Change single bits in every file of a run; yield a row for each kind of file."""
    places = random.Random(0)
    for suffix, read in READERS.items():
        changed = noticed = 0
        files = sorted(path for path in run.rglob(f"*{suffix}") if path.is_file())
        for path in files:
            whole = path.read_bytes()
            size = len(whole)
            at = {*range(min(ENDS, size)), *range(max(size - ENDS, 0), size)}
            at |= {places.randrange(size) for _ in range(BETWEEN)}
            for place in at:
                damaged = bytearray(whole)
                damaged[place] ^= 1 << places.randrange(8)
                path.write_bytes(damaged)
                changed += 1
                try:
                    read(path)
                except UserError:
                    noticed += 1
            path.write_bytes(whole)
        if files:
            name = f"{len(files)} *{suffix} of {what}"
            yield ["changed bits", f"{changed:,} in {name}", f"{noticed:,} noticed"]


class Watch(RunEvents):
    """Keeps memory and open files of this process after each epoch."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
        self.seen.append((pages * os.sysconf("SC_PAGE_SIZE"), files))


def watch_growth(recipe: Path, answers: Any) -> None:
    """Send memory and open files after each epoch of a long stage."""
    sys.path.insert(0, str(recipe.parent))
    torch.set_num_threads(1)
    watch = Watch()
    compress.run(str(recipe), out=recipe.parent / "long", events=watch)
    answers.put(watch.seen)


def measure_growth(recipe: Path) -> Iterator[list[str]]:
    """Yield a row about a run of more than 60 epochs."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    process = context.Process(target=watch_growth, args=(recipe, answers))
    process.start()
    seen = answers.get()
    process.join()
    (early, early_files), (late, late_files) = seen[9], seen[59]
    memory = f"{early / 1e6:.0f} to {late / 1e6:.0f} MB, {early_files} to {late_files} open files"
    yield ["epochs 10 to 60", f"{len(seen)} epochs of a run", memory]


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--kills", default=200, show_default=True)
def main(kills: int) -> None:
    """Print the table."""
    with TemporaryDirectory() as folder:
        recipe = write_recipe(Path(folder), "tiny.toml", RECIPE)
        sys.path.insert(0, folder)
        straight = recipe.parent / "straight"
        # The first process starts the server from which all are forked.
        assert run_process(recipe, recipe.parent / "first", None) == 0
        started = time.monotonic()
        assert run_process(recipe, straight, None) == 0
        seconds = time.monotonic() - started
        longer = RECIPE.replace("epochs = 3\noptimizer", "epochs = 60\noptimizer", 1)
        half, moments = recipe.parent / "half", random.Random(0)
        while not list(half.glob("stages/*.state")):
            shutil.rmtree(half, ignore_errors=True)
            run_process(recipe, half, moments.uniform(0.2, 0.8) * seconds)
        write_others(straight, others := recipe.parent / "others")
        rows = [
            *count_kills(recipe, straight, seconds, kills),
            *change_bytes(straight, "a finished run"),
            *change_bytes(half, "a killed run"),
            *change_bytes(others, "exports and an experiment"),
            *measure_growth(write_recipe(recipe.parent, "longer.toml", longer)),
        ]
    print(Table(["what", "how many", "what came of it"], rows, left=3).as_markdown())


def write_recipe(folder: Path, name: str, text: str) -> Path:
    """Write a recipe, with the images and networks that it names."""
    if not (folder / "images").is_dir():
        write_folder(folder / "images")
        (folder / "tinynets.py").write_text(NETWORKS)
    (folder / name).write_text(text.format(data=folder / "images"))
    return folder / name


if __name__ == "__main__":
    main()
