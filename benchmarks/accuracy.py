"""Ours against the other ways to a network of this size: what each scores, over several seeds.

    python benchmarks/accuracy.py                   # the default recipe, three seeds: more than a
    day on two CPU cores python benchmarks/accuracy.py --quick           # a small version python
    benchmarks/accuracy.py --student weights/fashion-mnist-100k.pth --budget 30k    # a classifier
    that is there

All rows of a seed have the same data. Those that begin with a network begin with the distilled
student of our run, and listen to its teacher if to any; those that cut it in rounds have as many as
we have, to the same targets, and are fine-tuned as our recipe's `finetune` stages say. Networks
from scratch train for as many epochs as all those stages together, as those after the last cut say
(rows 7 and 8: for as long as our stages took). "KD" is at a stage's alpha, to the end (ours stops
where it has outgrown its teacher); at alpha 0.5 and temperature 4 where it has none. Only ours may
be compiled, where that pays. Row 5 wants nvidia-modelopt and what that does not bring along
(huggingface_hub, requests, transformers, torchprofile 0.0.4); without it, its line says so. A row's
minutes are those from nothing to its network, the teacher's and the student's training included
where it needs them. All are scored in float32 in the end; nothing is chosen by the test split.

With `--student` all rows but those from scratch begin with that network, which is their teacher
too, and what it took to train it is not counted.

Each row of each seed is written to `--out` when it is known, and each training's state after every
epoch: the same command goes on where it was stopped, and does only what is missing.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rivals import Refused
from rows import ROWS, Row, Setting, lay_out

from compress.cli.terminal import Terminal
from compress.data.batches import plain_batches
from compress.data.pool import Pool
from compress.models.cost import measure_cost
from compress.recipe import load as recipes
from compress.reporting.tables import Table
from compress.runtime.errors import UserError
from compress.runtime.files import write_text
from compress.training.evaluate import measure_accuracy


@dataclass(frozen=True)
class Cell:
    """A row for one seed, as its file keeps it: without numbers, and with a reason, where a tool
    refuses.

    `val` and `test` are top-1 accuracy, 0 to 1.
    """

    seed: int
    params: int | None = None
    macs: int | None = None
    val: float | None = None
    test: float | None = None
    seconds: float | None = None
    epochs: float | None = None
    note: str = ""


def fill(row: Row, setting: Setting, folder: Path) -> Cell:
    """Make the network of `row`, and measure it."""
    seed, data, size = setting.plan.recipe.seed, setting.plan.data, setting.image_size
    try:
        made = row.make(setting, folder)
    except Refused as refusal:
        return Cell(seed, note=str(refusal))
    model = made.model

    def score(pool: Pool) -> float:
        batches = plain_batches(data, pool, batch_size=500)
        return measure_accuracy(model, batches, setting.plan.task, image_size=size)

    sparse = setting.plan.steps[-1].sparse
    cost = measure_cost(model, (3, size, size), sparse)
    test = data.test().to(setting.plan.device)
    return Cell(
        seed,
        cost.params,
        cost.macs,
        score(data.val),
        score(test),
        round(made.seconds, 1),
        made.epochs,
        made.note,
    )


def file_of(row: Row, seed: int, out: Path) -> Path:
    """Where a cell is kept; the metrics of its epochs, and states while it trains, lie in a folder
    of that name."""
    return out / "rows" / row.key / f"seed{seed}.json"


def read(row: Row, seed: int, out: Path) -> Cell:
    """A cell that is there."""
    return Cell(**json.loads(file_of(row, seed, out).read_text()))


def columns(row: Row, cells: list[Cell]) -> list[str]:
    """A row of the table, over the seeds: the largest network, the mean and sample deviation of the
    rest."""
    notes = "; ".join(dict.fromkeys(cell.note for cell in cells if cell.note))
    made = [cell for cell in cells if cell.params is not None]
    if not made:
        return [str(row.number), row.title, "-", "-", "-", "-", "-", "-", notes]

    def spread(what: Callable[[Cell], float | None], digits: int) -> str:
        values = [value for cell in made if (value := what(cell)) is not None]
        mean = f"{statistics.mean(values):.{digits}f}"
        return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean

    return [
        str(row.number),
        row.title,
        f"{max(cell.params or 0 for cell in made):,}",
        f"{max(cell.macs or 0 for cell in made) / 1e6:.2f} M",
        spread(lambda cell: 100 * (cell.val or 0), 2),
        spread(lambda cell: 100 * (cell.test or 0), 2),
        "/".join(dict.fromkeys(f"{cell.epochs:g}" for cell in made)),
        spread(lambda cell: (cell.seconds or 0) / 60, 1),
        notes,
    ]


HEADINGS = ["", "how", "parameters", "MACs", "val %", "test %", "epochs", "minutes", ""]


def numbers(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """``0,1,2`` as numbers."""
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}: write whole numbers with commas between, as 0,1,2"
        ) from error


@click.command(help=__doc__.split("\n")[0])
@click.option(
    "--recipe",
    default="default",
    show_default=True,
    help="A shipped recipe's name, or a TOML file.",
)
@click.option("--budget", default="100k", show_default=True, help="Parameters.")
@click.option(
    "--student",
    type=click.Path(exists=True, dir_okay=False),
    help="Weights of a trained network to prune.",
)
@click.option("--seeds", default="0,1,2", show_default=True, callback=numbers)
@click.option("--rows", "wanted", default="1,2,3,4,5,6,7,8", show_default=True, callback=numbers)
@click.option("--quick", is_flag=True, help="6,000 training images and a quarter of the epochs.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where it is all kept; in runs if left out."
)
def main(
    recipe: str,
    budget: str,
    student: str | None,
    seeds: list[int],
    wanted: list[int],
    quick: bool,
    out: Path | None,
) -> None:
    named = [
        "accuracy",
        *(["quick"] if quick else []),
        *([Path(student).stem, budget] if student else []),
    ]
    out = out or Path("runs") / "-".join(named)
    rows = [row for row in ROWS if row.number in wanted]
    events = Terminal()
    try:
        for seed in seeds:
            asked = recipes.load_recipe(
                recipe, {"budget": budget, "seed": seed, "student": student}
            )
            logits_dir = out / "logits_cache" / f"seed{seed}"
            setting = lay_out(
                asked.quick() if quick else asked, out / f"seed{seed}", logits_dir, events
            )
            for number, row in enumerate(rows, start=1):
                file = file_of(row, seed, out)
                if not file.is_file():
                    events.on_stage_start(number, len(rows), row.title, f"seed {seed}")
                    cell = fill(row, setting, file.with_suffix(""))
                    write_text(file, json.dumps(asdict(cell), indent=2) + "\n")
                for state in file.with_suffix("").glob("*.state"):
                    state.unlink()
            shutil.rmtree(logits_dir, ignore_errors=True)
    except UserError as error:
        raise click.UsageError(str(error)) from error

    lines = [columns(row, [read(row, seed, out) for seed in seeds]) for row in rows]
    console, table = Console(), Table(HEADINGS, lines, left=2)
    text = table.as_markdown()
    console.print(table.as_rich())
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    write_text(out / "accuracy.md", text)


if __name__ == "__main__":
    main()
