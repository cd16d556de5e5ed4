"""Compare the accuracy of `compress` with other ways to a small network, over several seeds.

    # The default recipe, three seeds: more than a day on two CPU cores.
    python benchmarks/accuracy.py
    # A small version.
    python benchmarks/accuracy.py --quick
    # Your own images, or fewer of them.
    python benchmarks/accuracy.py --data folder:photos --image-size 64 --rows 1,6,7
    # With a teacher that has been trained.
    python benchmarks/accuracy.py --recipe taught --teacher docs.lite0:lite0 --rows 1,9
    # Start from a trained classifier.
    python benchmarks/accuracy.py --student weights/fashion-mnist-100k.pth --budget 30k

All rows of a seed use the same data. "Ours" is the network of a run of `compress`.

Rows that prune start from the distilled student of our run, and distill from its teacher if they
distill. Rows that prune in rounds have as many rounds as our run, with the same targets, and the
fine-tuning stages of our recipe. Networks trained from scratch train for as many epochs as all of
those stages together, with the settings of the stages after the last cut (rows 7, 8 and 11: for as
long as our stages took).

"KD" uses a stage's alpha until the end, whereas our run stops when the student beats its teacher.
If a stage has no alpha, it is 0.5 and the temperature 4. Only our run may be compiled, where that
pays. Row 5 needs nvidia-modelopt and packages that it does not install itself (huggingface_hub,
requests, transformers, torchprofile 0.0.4), and row 10 needs fasterai; without them, the rows say
so.

Row 10 trains as fasterai does by default: AdamW, one cycle, half of the loss from the teacher; in
float32, without cached logits, and from the start again if it is interrupted.

A row's minutes are the time from the start to its network, including the training of the teacher
and the student where it needs them. All networks are scored in float32 at the end; nothing is
chosen by the test split.

With `--student`, all rows except those from scratch start from that network, which is also their
teacher. The time to train it is not counted.

Each row of each seed is written to `--out` when it is done, and the state of each training after
every epoch: the same command resumes where it was stopped, and only does what is missing.
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
from rows import ROWS, Row
from setting import Setting, lay_out

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
    """The result of a row for one seed, as stored in its file.

    `val` and `test` are top-1 accuracy, 0 to 1. If a tool refuses, there are no numbers, and `note`
    has the reason.
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
    """Return the file of a cell.

    The metrics of its epochs, and states while it trains, are in a folder of the same name.
    """
    return out / "rows" / row.key / f"seed{seed}.json"


def read(row: Row, seed: int, out: Path) -> Cell:
    """Read a stored cell."""
    return Cell(**json.loads(file_of(row, seed, out).read_text()))


def columns(row: Row, cells: list[Cell]) -> list[str]:
    """Return a row of the table over all seeds.

    Parameters and multiply-adds are those of the largest network; all else is the mean and the
    sample standard deviation.
    """
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


def slug(network: str) -> str:
    """Return a name or a path of a network as a part of a folder's name."""
    file = Path(network)
    return file.stem if file.is_file() else network.replace("/", "-").replace(":", ".")


HEADINGS = ["", "how", "parameters", "MACs", "val %", "test %", "epochs", "minutes", ""]


def numbers(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """Parse numbers separated by commas, such as ``0,1,2``."""
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
@click.option("--data", help="Data set, in place of the recipe's: a name, or folder:PATH.")
@click.option("--image-size", type=int, help="Side of the images, in pixels.")
@click.option("--max-images", type=int, help="Train on at most this many images.")
@click.option(
    "--student",
    type=click.Path(exists=True, dir_okay=False),
    help="Weights of a trained network to prune.",
)
@click.option(
    "--teacher",
    help="Teacher, in place of the recipe's: a name, a weights file, or module:function.",
)
@click.option("--seeds", default="0,1,2", show_default=True, callback=numbers)
@click.option(
    "--rows", "wanted", default="1,2,3,4,5,6,7,8,9,10,11", show_default=True, callback=numbers
)
@click.option("--quick", is_flag=True, help="6,000 training images and a quarter of the epochs.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Where it is all kept; in runs if left out."
)
def main(
    recipe: str,
    budget: str,
    data: str | None,
    image_size: int | None,
    max_images: int | None,
    student: str | None,
    teacher: str | None,
    seeds: list[int],
    wanted: list[int],
    quick: bool,
    out: Path | None,
) -> None:
    named = [
        "accuracy",
        *(["quick"] if quick else []),
        *([Path(student).stem, budget] if student else []),
        *([f"{slug(teacher)}-teaches"] if teacher else []),
        *([Path(data).name] if data else []),
        *([f"{max_images}-images"] if max_images else []),
    ]
    out = out or Path("runs") / "-".join(named)
    rows = [row for row in ROWS if row.number in wanted]
    events = Terminal()
    try:
        for seed in seeds:
            asked = recipes.load_recipe(
                recipe,
                {
                    "budget": budget,
                    "seed": seed,
                    "student": student,
                    "teacher": teacher,
                    "data": data,
                    "image_size": image_size,
                    "max_images": max_images,
                },
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
