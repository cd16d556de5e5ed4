"""The command `report`: a run, a sweep or an experiment as a page."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.command import Command
from compress.cli.options import (
    builders_option,
    device_option,
)
from compress.cli.output import echo_line
from compress.recipe.data_names import check_data_name


@click.command(cls=Command)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default="report.html",
    show_default=True,
    help="File to write; an older report there is replaced.",
)
@click.option(
    "--evaluate/--no-evaluate",
    default=True,
    show_default=True,
    help="Of a run: score its networks on the test split, for the confusion and the pictures.",
)
@click.option("--data", help="Data of the run, if it has moved.")
@builders_option
@device_option
def report(
    directory: Path,
    out: Path,
    evaluate: bool,
    data: str | None,
    builders: tuple[str, ...],
    device: str,
) -> None:
    """Write a page about a run, or several.

    DIRECTORY is that of a run, a sweep or an experiment. The page is one HTML file that needs
    no network: what was asked for and what came out, the stages, figures, the confusion, the images
    that the network gets wrong, and how to run it again.
    """
    check_data_name(data)

    from compress.experiments.report import report

    written = report(
        directory,
        out,
        evaluate=evaluate,
        data=data,
        builders=builders,
        device=device,
        log=echo_line,
    )
    echo_line(f"{written}: {written.stat().st_size / 1e3:,.0f} KB")
