"""The group of commands, `compress`. The commands are in the other files of this room."""

from __future__ import annotations

import click

from compress.cli.adopt import adopt
from compress.cli.analyze import analyze
from compress.cli.command import CONTEXT_SETTINGS
from compress.cli.deploy import bench, export, quantize
from compress.cli.evaluate import evaluate
from compress.cli.models import compare, prune, summary, to_grey
from compress.cli.predict import predict
from compress.cli.recipes import recipes, stages
from compress.cli.report import report
from compress.cli.run import experiment, run, sweep


@click.group(context_settings=CONTEXT_SETTINGS)
@click.version_option(package_name="compress")
def main() -> None:
    """Compress image classifiers to a budget: distillation, pruning and fine-tuning."""


for _command in (
    *(run, sweep, experiment, report),
    *(recipes, stages),
    *(summary, analyze, compare, prune, adopt, to_grey),
    *(predict, evaluate, export, quantize, bench),
):
    main.add_command(_command)
