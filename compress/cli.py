"""The command line: read the flags, call the library, show the result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import click

from compress.errors import UserError

# torch takes seconds to import: whatever needs it is imported inside the command that needs it.


def _answers(command: Callable[..., int | None]) -> Callable[..., None]:
    """A user's mistake becomes one line on standard error and exit code 2; Ctrl-C, one line and 130."""

    @wraps(command)
    def wrapped(**flags: Any) -> None:
        try:
            code = command(**flags)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("stopped; the same command goes on after the last finished epoch", err=True)
            sys.exit(130)
        sys.exit(code or 0)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="compress")
def main() -> None:
    """An image classifier and a budget in, the most accurate network that fits out."""


@main.command()
@click.argument("recipe", default="default")
@click.option("--budget", help="parameters to fit into: 100k, 0.1M, 100_000, or 5% of the student")
@click.option("--data", help="fashion-mnist, cifar10, imagenette, … or folder:PATH")
@click.option("--teacher", help="a network's name, or a trained teacher's weights file (*.pth)")
@click.option("--student", help="a network's name")
@click.option(
    "--stem",
    type=click.Choice(["imagenet", "half", "small"]),
    help="the student's stem; small suits small images",
)
@click.option("--limit", type=int, help="train on this many images")
@click.option("--share", type=float, help="train on this share of the images, as 0.25")
@click.option("--seed", type=int)
@click.option("--out", type=click.Path(path_type=Path), help="run directory; runs/… if left out")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--quick", is_flag=True, help="the same stages in minutes, for trying out")
@click.option("--fresh", is_flag=True, help="throw away what an earlier run left in the run directory")
@_answers
def run(
    recipe: str, teacher: str | None, student: str | None, stem: str | None, budget: str | None, **flags: Any
) -> int:
    """Train a teacher, distill a student, prune it to the budget.

    RECIPE is a name that `compress recipes` lists, or a TOML file. Run again with the same flags to go on after
    an interruption.
    """
    from compress.recipe import load, parse_budget

    if budget is not None:
        parse_budget(budget)
    weights = teacher if teacher and (teacher.endswith((".pth", ".pt")) or Path(teacher).is_file()) else None
    overrides = {
        "budget": budget,
        "teacher.name": None if weights else teacher,
        "weights": weights,
        "student.name": student,
        "student.stem": stem,
        **{key: flags.pop(key) for key in ("data", "limit", "share", "seed")},
    }
    load(recipe, overrides)  # a typo is answered before torch is imported

    from compress.pipeline import run as run_pipeline
    from compress.terminal import Terminal, stages_table

    terminal = Terminal()
    result = run_pipeline(recipe, watch=terminal, **flags, **overrides)
    terminal.show(stages_table(list(result.records)))
    terminal.show(f"{result.model}")
    return 0


@main.command()
@_answers
def recipes() -> None:
    """List the recipes that come with the program."""
    from compress.recipe import load, shipped

    for name in shipped():
        click.echo(f"{name:24} {load(name).title}")


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@_answers
def stages(directory: Path) -> None:
    """Show the stages of a run again."""
    from compress.pipeline import read_records
    from compress.terminal import Terminal, stages_table

    _, records = read_records(directory)
    Terminal().show(stages_table(records))


@main.command()
@click.option("-w", "--weights", required=True, type=click.Path(path_type=Path))
@click.option("--depth", type=click.IntRange(1, 10), default=2, show_default=True)
@_answers
def summary(weights: Path, depth: int) -> None:
    """Show a weights file's network, layer by layer, as torchinfo counts it."""
    from compress.checkpoint import load
    from compress.summary import table

    kept = load(weights)
    click.echo(table(kept.model, kept.input_size, depth))
    click.echo(f"{kept.network.name}, stem {kept.network.stem}, trained on {kept.data}, {len(kept.classes)} classes")


@main.command()
@click.option("-w", "--weights", required=True, type=click.Path(path_type=Path))
@click.option("--budget", required=True, help="parameters to fit into: 100k, 0.1M, 100_000, or 5% of the network")
@click.option("--importance", default="magnitude", show_default=True, help="what a channel is worth")
@click.option("--out", type=click.Path(path_type=Path), default="pruned.pth", show_default=True)
@_answers
def prune(weights: Path, budget: str, importance: str, out: Path) -> None:
    """Cut a weights file's network down to a budget once, without training."""
    from compress.recipe import parse_budget

    size = parse_budget(budget)

    import torch

    from compress import checkpoint
    from compress.pruning.pruner import prune as cut
    from compress.summary import count

    if out.exists():
        raise UserError(f"{out}: is there already; choose another --out")
    kept = checkpoint.load(weights)
    before = count(kept.model, kept.input_size).params
    pruned = cut(kept.model, torch.zeros(1, *kept.input_size), size.of(before), importance=importance)
    after = count(pruned, kept.input_size).params
    origin = {**kept.origin, "pruned": {"from": str(weights), "budget": budget, "importance": importance}}
    checkpoint.save(replace(kept, model=pruned, origin=origin), out)
    click.echo(f"{out}: {before:,} to {after:,} parameters, not yet fine-tuned")


@main.command()
@click.argument("images", nargs=-1)
@click.option("-w", "--weights", required=True, type=click.Path(path_type=Path), help="a weights file, as model.pth")
@click.option("--top", type=click.IntRange(1), default=3, show_default=True, help="classes to show for each image")
@click.option("--invert", is_flag=True, help="for dark things on light ground, where the training data is the reverse")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.option("--csv", type=click.Path(path_type=Path), help="write CSV to this file")
@click.option("--data", help="without IMAGES: the data set whose test split is scored; the file's own if left out")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@_answers
def predict(
    images: tuple[str, ...],
    weights: Path,
    top: int,
    invert: bool,
    as_json: bool,
    csv: Path | None,
    data: str | None,
    device: str,
) -> int:
    """Classify images with a weights file.

    IMAGES are files, folders, globs, or - for standard input. Without any, the data set's test split is scored,
    class by class.
    """
    from compress import inference
    from compress.checkpoint import load
    from compress.images import find_images
    from compress.terminal import Terminal, classes_table, predictions_table

    kept = load(weights)
    terminal = Terminal()
    if not images:
        if as_json or csv or invert:
            raise UserError("--json, --csv and --invert go with IMAGES, and none are given")
        right, total = inference.score_test(kept, data, device)
        terminal.show(classes_table(kept.classes, right.tolist(), total.tolist()))
        return 0
    found = list(inference.predict(kept, find_images(images), top=top, invert=invert, device=device))
    if csv:
        inference.write_csv(found, csv)
    if as_json:
        click.echo(inference.to_json(found))
    elif not csv:
        terminal.show(predictions_table(found))
    failed = [p for p in found if p.error]
    for prediction in failed:
        click.echo(f"{prediction.image}: {prediction.error}", err=True)
    return 1 if failed else 0


def predict_main() -> None:
    """The console script `predict`."""
    predict.main(prog_name="predict")
