"""Compare the speed of `compress` with a plain script (plain.py), side by side.

    # A quarter of an hour on two CPU cores.
    python benchmarks/speed.py
    # Seconds a row; the figures mean little.
    python benchmarks/speed.py --quick --rows 3

Both sides train the same networks on the same images, with the same batch size, on this machine.
"Ours" are the stages of a run, with everything that they do in a step; the ends of epochs
(validation, saving) are not timed on either side. The two sides take turns in short bursts, so that
other load on the machine affects both. The table shows medians over the bursts, and the range of
the ratio. Networks are those of the recipe, with random weights, which make no difference to speed.

Rows:

 1  train the teacher; the same, compiled
 2  distill the teacher into the student, running the teacher live on both sides: first as in the
    recipe (at its own image size, against full size), then like for like
 3  fine-tune a pruned network with cached logits, against a live teacher; then with a live teacher
    on both sides, as in the first pass over a view; then compiled
 4  a step of fine-tuning with cached logits, against a step on labels alone
 5  peak memory of a process that does a few steps of 1, 2 and 3 (no pruning): on a CPU, of the
    whole process, with the same imports on both sides and without the plain script's workers; on
    a GPU, as allocated by torch
 6  time from the start of `compress run` to the first training step, without importing torch and
    torchvision and without loading data
 7  distill as in 2, like for like, against torchdistill on the plain script's batches (install it
    first: `pip install torchdistill`; without it, the row says so)
 8  on a GPU: fraction of the time in which it is busy, for each kind of training, from a
    profiler's trace of its kernels
 9  as many processes as there are GPUs or cores, each with its shard of every batch, against one
    process on one GPU, or with as many threads
10  on a CPU: multiply-adds a second of distilling as in 2, like for like, and of fine-tuning with
    cached logits, against those of products of large matrices, which convolutions cannot exceed;
    then the percentage of the time that each kind of operation takes on both sides, from a
    profiler's trace
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from bursts import Setting, for_bursts
from rich.console import Console
from speed_rows import HERE, ROWS

from compress.recipe import load as recipes
from compress.reporting.tables import Table
from compress.runtime.device import device_name, package_versions, pick_device
from compress.runtime.errors import UserError

HEADINGS = ["", "work", "ours", "plain", "", "ratio", "range", "goal"]


def numbers(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """Parse numbers of rows, such as ``1,3``."""
    wanted = {part.strip() for part in text.split(",")}
    if not wanted <= {str(row) for row in ROWS}:
        raise click.BadParameter(
            f"{text!r}: rows are {', '.join(map(str, ROWS))}, with commas between"
        )
    return sorted(map(int, wanted))


@click.command(help=__doc__.split("\n")[0])
@click.option(
    "--recipe",
    "name",
    default="default",
    show_default=True,
    help="A shipped recipe's name, or a TOML file.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    default=HERE.parent / "weights" / "fashion-mnist-100k.pth",
    help="The pruned student that is fine-tuned.  [default: the shipped one of 100k]",
)
@click.option("--rows", default=",".join(map(str, ROWS)), show_default=True, callback=numbers)
@click.option(
    "--steps",
    default=10,
    show_default=True,
    type=click.IntRange(min=1),
    help="Steps timed in a burst.",
)
@click.option(
    "--repeats",
    default=5,
    show_default=True,
    type=click.IntRange(min=1),
    help="Bursts of each side.",
)
@click.option(
    "--workers",
    default=min(4, os.cpu_count() or 1),
    show_default=True,
    help="Of the plain DataLoader.",
)
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=True,
    show_default=True,
    help="Rows 1 and 3 so as well.",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option(
    "--quick", is_flag=True, help="Two bursts of two steps of 32 images: to see that it works."
)
def main(
    name: str,
    weights: Path,
    rows: list[int],
    steps: int,
    repeats: int,
    workers: int,
    compiled: bool,
    device: str,
    quick: bool,
) -> None:
    console = Console()
    steps, repeats = (2, 2) if quick else (steps, repeats)
    try:
        recipe = recipes.load_recipe(name, {"batch_size": 32} if quick else {})
        recipe = for_bursts(recipe, steps)
        with TemporaryDirectory() as folder:
            on = pick_device(device)
            setting = Setting(
                name, recipe, weights, on, steps, repeats, workers, compiled, Path(folder)
            )
            lines = []
            for row in rows:
                for line in ROWS[row](setting):
                    lines.append(line.cells())
                    # Each line is printed at once: the others take minutes.
                    told = "  ".join(lines[-1])
                    console.print(told, markup=False, highlight=False, soft_wrap=True)
    except UserError as error:
        raise click.UsageError(str(error)) from error

    how = (
        f"{device_name(setting.device)}; torch {package_versions()['torch']};"
        f" batch {recipe.batch_size}; "
    )
    how += f"{repeats} bursts of {steps} steps; the plain script's DataLoader has {workers} workers"
    table = Table(HEADINGS, lines, left=2)
    console.print(table.as_rich())
    text = table.as_markdown()
    console.print(f"{how}:\n\n{text}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
