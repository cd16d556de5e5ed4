"""The command `card`: a model card of a weights file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from compress.cli.command import Command
from compress.cli.load import load_weights
from compress.cli.options import require_free, weights_options
from compress.cli.output import echo_block, echo_line
from compress.runtime.files import write_text


@click.command(cls=Command)
@weights_options
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="File to write, as README.md; printed if left out.",
)
def card(weights: Path, builder: str | None, out: Path | None) -> None:
    """Write a model card for Hugging Face.

    It has what the weights file says about itself, and the run.json beside it: network, data,
    training, metrics, limits and use. Nothing is measured, and no path of this machine is in it.
    """
    if out:
        require_free(out)
    checkpoint = load_weights(weights, builder)

    from compress.reporting.model_card.card import make_card

    text = make_card(checkpoint, weights, partial(echo_line, err=True))
    if out:
        write_text(out, text)
        echo_line(f"{out}: model card of {weights}")
    else:
        echo_block(text.rstrip())
