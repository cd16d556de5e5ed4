"""The command `analyze`: where a network could be cut, and what that would cost."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.command import Command
from compress.cli.load import load_builder
from compress.cli.options import (
    device_option,
    json_option,
    parse_threads,
    require_free,
    weights_options,
)
from compress.cli.output import echo_line
from compress.recipe.data_names import check_data_name
from compress.recipe.registry import IMPORTANCES, RUNTIMES
from compress.runtime.errors import UserError
from compress.runtime.files import require_file

FORMATS = (".json", ".csv", ".svg", ".png")


def parse_fractions(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[float, ...]:
    """Parse percentages of channels, separated by commas, to fractions."""
    try:
        percent = [float(part.strip().removesuffix("%")) for part in text.split(",")]
    except ValueError:
        percent = [0]
    if not all(0 < each < 100 for each in percent):
        raise click.BadParameter(f"{text!r}: write percentages between 0 and 100, with commas")
    return tuple(sorted({each / 100 for each in percent}))


@click.command(cls=Command)
@weights_options
@click.option("--data", help="Data that the network was trained on, if it has moved.")
@click.option(
    "--remove",
    "fractions",
    callback=parse_fractions,
    default="10,25,50,75",
    show_default=True,
    metavar="PERCENT",
    help="Channels to remove from each group, in percent, with commas.",
)
@click.option(
    "--images",
    type=click.IntRange(1),
    help="Most validation images to score on; 1,000 if left out, fewer for large networks.",
)
@click.option(
    "--importance",
    default="taylor",
    show_default=True,
    help="Score that ranks the channels of a group: magnitude, bn-scale, …",
)
@click.option(
    "--runtime", help="Predict the time saved, in onnx, onnx-int8, openvino or torch, on this CPU."
)
@click.option(
    "--threads",
    type=int,
    callback=parse_threads,
    default=1,
    show_default=True,
    help="Threads of that runtime.",
)
@click.option(
    "--out",
    "outs",
    multiple=True,
    type=click.Path(path_type=Path),
    help="File to write, by its ending: .json, .csv, or a heat map as .svg or .png; repeat it for"
    " several.",
)
@json_option
@device_option
def analyze(
    weights: Path,
    builder: str | None,
    data: str | None,
    fractions: tuple[float, ...],
    images: int | None,
    importance: str,
    runtime: str | None,
    threads: int,
    outs: tuple[Path, ...],
    as_json: bool,
    device: str,
) -> None:
    """Show what cuts would cost, group by group.

    Each group of channels that can only be removed together is cut alone, without training, and
    the network is scored on validation images. A report shows the analysis if it lies in the run
    directory as analysis.json.
    """
    require_file(weights)
    check_data_name(data)
    IMPORTANCES.check_name(importance)
    if runtime is not None:
        RUNTIMES.check_name(runtime)
    for out in outs:
        if out.suffix.lower() not in FORMATS:
            raise UserError(f"{out}: ends in none of {', '.join(FORMATS)}; rename it")
        require_free(out)

    from compress.cli.terminal import Terminal
    from compress.pruning.analysis import analyze
    from compress.reporting.sensitivity import sensitivity_table, write_analysis
    from compress.training.events import Events

    terminal = Terminal()
    found = analyze(
        weights,
        data,
        fractions=fractions,
        images=images,
        importance=importance,
        runtime=runtime,
        threads=threads,
        builder=load_builder(builder),
        device=device,
        # A bar would stand before the JSON.
        events=Events() if as_json else terminal,
    )
    for out in outs:
        write_analysis(found, out)
    if as_json:
        click.echo(found.as_json(), nl=False)
        return
    terminal.show(sensitivity_table(found))
    if found.uncut_layers:
        echo_line(f"not cut, as their channels cannot be followed: {', '.join(found.uncut_layers)}")
