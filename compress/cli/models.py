"""Commands on weights files: `summary`, `prune`, `to-grey` and `compare`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from compress.cli.command import Command
from compress.cli.load import load_weights, make_foreign
from compress.cli.options import (
    budget_options,
    builder_option,
    device_option,
    foreign_options,
    require_free,
    weights_options,
)
from compress.cli.output import echo_block, echo_line
from compress.recipe.budget import describe_cost, parse_budgets
from compress.recipe.data_names import check_data_name
from compress.recipe.registry import IMPORTANCES, RUNTIMES
from compress.runtime.errors import UserError
from compress.runtime.files import require_file

# For a quick --help, a function imports pydantic itself; and torch, which takes seconds, after its
# checks.


@click.command(cls=Command)
@weights_options
@click.option(
    "--depth",
    type=click.IntRange(1, 10),
    default=2,
    show_default=True,
    help="Levels of nested modules to show.",
)
def summary(weights: Path, builder: str | None, depth: int) -> None:
    """Show the layers of a network, by torchinfo."""
    checkpoint = load_weights(weights, builder)

    from compress.cli.terminal import Terminal
    from compress.models.cost import summary_table

    width, sparse = Terminal().width, checkpoint.sparse
    echo_block(summary_table(checkpoint.model, checkpoint.input_size, depth, sparse, width))
    network = f"{checkpoint.network.name}, stem {checkpoint.network.stem}"
    echo_line(f"{network}, trained on {checkpoint.data}, {len(checkpoint.classes)} classes")


@click.command(cls=Command)
@weights_options
@budget_options
@click.option(
    "--mode",
    type=click.Choice(["channels", "weights"]),
    default="channels",
    show_default=True,
    help="Remove whole channels, or set single weights to zero.",
)
@click.option(
    "--importance",
    default="magnitude",
    show_default=True,
    help="Score that ranks channels or weights: bn-scale, lamp, …",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="pruned.pth",
    show_default=True,
    help="Weights file to write.",
)
def prune(
    weights: Path,
    builder: str | None,
    mode: str,
    importance: str,
    out: Path,
    runtime: str | None,
    threads: int | None,
    **budgets: str | None,
) -> None:
    """Prune a weights file once, without training."""
    amounts = parse_budgets(budgets)
    IMPORTANCES.check_name(importance)
    if not amounts:
        raise UserError(
            "no budget given; pass --budget, --macs, --file-size, --latency or --speedup"
        )
    RUNTIMES.check_name(runtime := runtime or "onnx")
    require_free(out)
    checkpoint = load_weights(weights, builder)

    from compress.pruning.prune_file import prune_file

    before, after = prune_file(
        checkpoint,
        amounts,
        out,
        mode=mode,
        importance=importance,
        runtime=runtime,
        threads=threads or 1,
        log=echo_line,
    )
    echo_line(f"{out}: {before.params:,} to {after.params:,} parameters, not yet fine-tuned")
    cost = replace(after, bytes=out.stat().st_size)
    for axis, amount in amounts.items():
        echo_line(f"budget {amount.text}: {describe_cost(cost, axis)}")


@click.command("to-grey", cls=Command)
@weights_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="grey.pth",
    show_default=True,
    help="Weights file to write.",
)
def to_grey(weights: Path, builder: str | None, out: Path) -> None:
    """Fold three channels to one for grey images.

    The logits of grey images stay the same; images are read as grey ones from then on.
    """
    require_free(out)
    checkpoint = load_weights(weights, builder)

    from compress.models.checkpoint import save
    from compress.models.cost import measure_cost
    from compress.models.grey import fold_grey

    grey, difference = fold_grey(checkpoint)
    save(grey, out)
    before, after = (measure_cost(c.model, c.input_size, c.sparse) for c in (checkpoint, grey))
    echo_line(
        f"{out}: {before.params:,} to {after.params:,} parameters, {before.macs:,} to"
        f" {after.macs:,} multiply-adds; logits of grey images differ by {difference:.1e} at most"
    )


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--data", help="Data set whose test split is scored; that of each file's training if left out."
)
@builder_option
@foreign_options
@device_option
def compare(
    files: tuple[Path, ...],
    data: str | None,
    builder: str | None,
    classes: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    image_size: int | None,
    device: str,
) -> None:
    """Compare models side by side.

    Shows the parameters, multiply-adds, size, latency and test accuracy of FILES.
    """
    for file in files:
        require_file(file)
    check_data_name(data)

    from compress.cli.terminal import Terminal
    from compress.reporting.compare import compare_models
    from compress.reporting.tables import compare_table

    foreign = make_foreign(classes, mean, std, image_size)
    Terminal().show(compare_table(compare_models(files, data, device, builder, foreign)))
