"""The group of commands, `compress`. The commands are in the other files of this room."""

from __future__ import annotations

import click

from compress.cli.adopt import adopt
from compress.cli.analyze import analyze
from compress.cli.card import card
from compress.cli.command import CONTEXT_SETTINGS, CommandGroup
from compress.cli.demo import demo
from compress.cli.deploy import bench, export, quantize
from compress.cli.doctor import doctor
from compress.cli.evaluate import evaluate
from compress.cli.models import compare, prune, summary, to_grey
from compress.cli.output import echo_line
from compress.cli.predict import predict
from compress.cli.recipes import recipes, stages
from compress.cli.report import report
from compress.cli.run import experiment, run, sweep
from compress.runtime.device import package_versions


def show_version(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print versions and exit; of torch without importing it."""
    if value and not ctx.resilient_parsing:
        found = package_versions()
        names = ("compress", "torch", "torchvision", "python")
        echo_line(", ".join(f"{name} {found[name]}" for name in names))
        ctx.exit()


@click.group(cls=CommandGroup, context_settings=CONTEXT_SETTINGS)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=show_version,
    help="Show the versions of compress, torch and Python.",
)
def main() -> None:
    """Compress image classifiers to a budget: distillation, pruning and fine-tuning."""


for _command in (
    *(run, sweep, experiment, report),
    *(recipes, stages, doctor),
    *(summary, card, analyze, compare, prune, adopt, to_grey),
    *(predict, evaluate, export, quantize, bench, demo),
):
    main.add_command(_command)
