"""The command line: read the flags, call the library, show the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from compress.cli import options as flags
from compress.recipe.model_spec import ModelSpec, Stem
from compress.recipe.registry import IMPORTANCES, check_data_name
from compress.runtime import distributed
from compress.runtime.errors import UserError, did_you_mean
from compress.runtime.files import require_file

if TYPE_CHECKING:
    from compress.models.checkpoint import Checkpoint
    from compress.recipe.schema import Recipe

# torch takes seconds to import: whatever needs it is imported inside the command that needs it.


def _load(weights: Path, own: str | None) -> Checkpoint:
    require_file(weights)

    from compress.models.build import import_builder
    from compress.models.checkpoint import load

    return load(weights, import_builder(own) if own else None)


def _new(out: Path) -> None:
    if out.exists() or out.is_symlink():  # a link to nothing is somebody's too
        raise UserError(f"{out}: is there already; choose another --out")


def _check(recipe: str, overrides: dict[str, Any]) -> Recipe:
    """The recipe; whatever can be wrong with it without knowing any network is answered before torch is imported."""
    from compress.recipe.load import load_recipe

    read = load_recipe(recipe, overrides)
    for file in filter(None, (read.teacher.weights, read.student.weights)):
        require_file(file)
    check_data_name(read.data)
    return read


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="compress")
def main() -> None:
    """An image classifier and a budget in, an accurate network that fits out."""


@main.command()
@click.argument("recipe", default="default")
@flags.budgets
@click.option("--out", type=click.Path(path_type=Path), help="run directory; runs/… if left out")
@flags.setup
@flags.answers("stopped; the same command goes on after the last finished epoch")
@distributed.process_group()
def run(
    recipe: str, out: Path | None, device: str, quick: bool, fresh: bool, **overrides: Any
) -> None:
    """Train a teacher, distill a student, prune it to the budget.

    RECIPE is a name that `compress recipes` lists, or a TOML file. Run again with the same flags to go on after
    an interruption.
    """
    _check(recipe, overrides)

    from compress.cli.terminal import Terminal, stages_table
    from compress.pipeline.run import run as run_pipeline

    terminal = Terminal()
    result = run_pipeline(
        recipe, out=out, device=device, quick=quick, fresh=fresh, events=terminal, **overrides
    )
    if distributed.is_main():
        terminal.show(stages_table(result.results))
        terminal.show(str(result.model))


@main.command()
@click.argument("recipe", default="default")
@click.option("--budgets", required=True, help="numbers of parameters: 1M,300k,100k,30k,10k")
@click.option("--out", type=click.Path(path_type=Path), default="runs/sweep", show_default=True)
@flags.setup
@flags.answers("stopped; the same command goes on after the last finished epoch")
def sweep(
    recipe: str, budgets: str, out: Path, device: str, quick: bool, fresh: bool, **overrides: Any
) -> None:
    """Many budgets: each goes on from the network of the one above it, and the best network so far teaches.

    Leaves a run directory for each budget in --out, a table (sweep.md) and a picture (sweep.png). With --minutes each
    budget gets that many.
    """
    from compress.recipe.budget import parse_descending

    ordered = parse_descending(budgets.split(","))
    read = _check(recipe, overrides | {"budget": ordered[-1]})

    from compress.cli.terminal import Terminal, scatter
    from compress.experiments.sweep import HEADINGS, PUBLISHED, cells, sweep
    from compress.reporting.tables import as_table

    terminal = Terminal()
    points = sweep(
        recipe,
        ordered,
        out=out,
        device=device,
        quick=quick,
        fresh=fresh,
        events=terminal,
        **overrides,
    )
    terminal.show(as_table(HEADINGS, [cells(point) for point in points]))
    published = [(params, 100 * accuracy) for _, params, accuracy in PUBLISHED.get(read.data, ())]
    for counted, of, others in (("parameters", "params", published), ("multiply-adds", "macs", [])):
        ours = [(getattr(point, of), 100 * point.test, point.budget) for point in points]
        terminal.show(scatter(ours, counted, others))
    terminal.show(str(out / "sweep.png"))


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="directory for the runs; runs/… if left out"
)
@flags.device
@click.option("--quick", is_flag=True, help="each run in minutes, for trying out")
@flags.answers("stopped; the same command goes on after the last finished epoch")
def experiment(file: Path, out: Path | None, device: str, quick: bool) -> int:
    """Run every combination of recipe keys that FILE names, with every seed.

    Does what is missing, and leaves a table (table.md, table.csv) and a picture (table.png) beside the runs.
    """
    from compress.cli.terminal import Terminal
    from compress.experiments.experiment import run
    from compress.experiments.results import table
    from compress.reporting.tables import as_table

    terminal = Terminal()
    cells = run(file, out=out, device=device, quick=quick, events=terminal)
    terminal.show(as_table(*table(cells), left=len(cells[0].keys)))
    terminal.show(str(cells[0].folder.parent / "table.png"))
    for cell in cells:
        if cell.error:
            click.echo(f"{cell.folder}: {cell.error}", err=True)
    return 1 if any(cell.error for cell in cells) else 0


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--data", help="the data set whose test split is scored; each file's own if left out")
@flags.own
@flags.device
@flags.answers()
def compare(files: tuple[Path, ...], data: str | None, own: str | None, device: str) -> None:
    """Show weights files side by side: parameters, file size, latency, accuracy."""
    for file in files:
        require_file(file)
    check_data_name(data)

    from compress.cli.terminal import Terminal, sides_table
    from compress.reporting.compare import compare_models

    Terminal().show(sides_table(compare_models(files, data, device, own)))


@main.command()
@flags.answers()
def recipes() -> None:
    """List the recipes that come with the program."""
    from compress.recipe.load import load_recipe, shipped_recipes

    for name in shipped_recipes():
        click.echo(f"{name:28} {load_recipe(name).title}")


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@flags.answers()
def stages(directory: Path) -> None:
    """Show the stages of a run again."""
    from compress.cli.terminal import Terminal, stages_table
    from compress.pipeline.run_dir import read_results

    _, results = read_results(directory)
    Terminal().show(stages_table(results))


@main.command()
@flags.weights
@click.option("--depth", type=click.IntRange(1, 10), default=2, show_default=True)
@flags.answers()
def summary(weights: Path, own: str | None, depth: int) -> None:
    """Show a weights file's network, layer by layer, as torchinfo counts it."""
    kept = _load(weights, own)

    from compress.models.cost import summary_table

    click.echo(summary_table(kept.model, kept.input_size, depth, kept.sparse))
    click.echo(
        f"{kept.network.name}, stem {kept.network.stem}, trained on {kept.data}, {len(kept.classes)} classes"
    )


@main.command()
@flags.weights
@flags.budgets
@click.option(
    "--mode", type=click.Choice(["channels", "weights"]), default="channels", show_default=True
)
@click.option(
    "--importance",
    default="magnitude",
    show_default=True,
    help="what a channel is worth: bn-scale, lamp, …",
)
@click.option("--out", type=click.Path(path_type=Path), default="pruned.pth", show_default=True)
@flags.answers()
def prune(
    weights: Path, own: str | None, mode: str, importance: str, out: Path, **budgets: str | None
) -> None:
    """Cut a weights file's network down to a budget once, without training."""
    from compress.recipe.budget import describe_cost, parse_budgets

    wanted, known = (
        parse_budgets(budgets),
        IMPORTANCES.names(),
    )  # a typo is answered before torch is imported
    if importance not in known:
        raise UserError(
            f"unknown importance {importance!r}{did_you_mean(importance, known)}; known: {', '.join(known)}"
        )
    if not wanted:
        raise UserError("a budget is due: --budget, --macs or --file-size")

    _new(out)
    kept = _load(weights, own)

    from compress.pruning.prune_file import prune_file

    before, after = prune_file(kept, wanted, out, mode=mode, importance=importance, log=click.echo)
    click.echo(f"{out}: {before.params:,} to {after.params:,} parameters, not yet fine-tuned")
    reached = replace(after, bytes=out.stat().st_size)
    for axis, amount in wanted.items():
        click.echo(f"budget {amount.text}: {describe_cost(reached, axis)}")


@main.command()
@click.argument("state_dict", type=click.Path(path_type=Path))
@click.option(
    "--network",
    required=True,
    help="what it was built from: resnet50, …, or package.module:function",
)
@click.option("--stem", type=click.Choice(get_args(Stem)), default="imagenet", show_default=True)
@click.option(
    "--data",
    required=True,
    help="what it learned from: cifar10, … or folder:PATH; its classes, in order",
)
@click.option(
    "--image-size",
    type=click.IntRange(1),
    help="side of the images it takes; the data's if left out",
)
@click.option(
    "--mean",
    callback=flags.values,
    help="of each channel, as it was trained: 0.5 or 0.49,0.48,0.45  [ImageNet's]",
)
@click.option("--std", callback=flags.values, help="the same  [ImageNet's]")
@click.option("--out", type=click.Path(path_type=Path), default="adopted.pth", show_default=True)
@flags.answers()
def adopt(
    state_dict: Path,
    network: str,
    stem: Stem,
    data: str,
    image_size: int | None,
    out: Path,
    **seen: Any,
) -> None:
    """Make a weights file of a network that was trained elsewhere, for --student and --teacher of other commands.

    STATE_DICT is what torch.save(model.state_dict(), …) wrote, or a checkpoint with that in it.
    """
    require_file(state_dict)
    check_data_name(data)
    _new(out)

    from compress.models.checkpoint import save
    from compress.pipeline.adopt import adopt

    given = {key: values for key, values in seen.items() if values}
    known, right = adopt(state_dict, ModelSpec(network, stem), data, image_size=image_size, **given)
    save(known, out)
    click.echo(
        f"{out}: right about {100 * right:.2f} % of images held out of {known.data}'s training data"
    )
    click.echo(
        "if that is less than it should be, it sees images otherwise: --image-size, --mean, --std"
    )


@main.command()
@click.argument("images", nargs=-1)
@flags.weights
@click.option(
    "--top",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="classes to show for each image",
)
@click.option(
    "--invert",
    is_flag=True,
    help="for dark things on light ground, where the training data is the reverse",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON")
@click.option("--csv", type=click.Path(path_type=Path), help="write CSV to this file")
@click.option(
    "--data",
    help="without IMAGES: the data set whose test split is scored; the file's own if left out",
)
@flags.device
@flags.answers()
def predict(
    images: tuple[str, ...],
    weights: Path,
    own: str | None,
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
    if not images and (as_json or csv or invert):
        raise UserError("--json, --csv and --invert go with IMAGES, and none are given")
    check_data_name(data)
    kept = _load(weights, own)

    from compress.cli.terminal import Terminal, classes_table, predictions_table
    from compress.data.decode import find_images
    from compress.deployment import predict as inference
    from compress.reporting import evaluation

    terminal = Terminal()
    if not images:
        right, total = evaluation.score_test_split(kept, data, device)
        terminal.show(classes_table(kept.classes, right.tolist(), total.tolist()))
        return 0
    found = list(
        inference.predict(kept, find_images(images), top=top, invert=invert, device=device)
    )
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
