"""Options and checks that commands share.

Does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from compress.recipe.registry import Stem
from compress.runtime.arguments import read_channel_values, require_threads
from compress.runtime.errors import UserError
from compress.runtime.files import require_replaceable

# What stands for standard output in place of a file.
STDOUT = Path("-")

F = TypeVar("F", bound=Callable[..., Any])


def require_free(out: Path) -> None:
    """Check that the file `out` can be created without replacing one.

    Raises:
        UserError: it exists, if only as a link to nothing.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: already exists; choose another --out")


def require_table(csv: Path | None, as_json: bool, *headers: str) -> Path | None:
    """Check that a CSV table can be written to `csv`, and return that file with links resolved.

    Args:
        headers: as for `require_replaceable`.

    Returns:
        None without a file: no table is asked for, or it goes to standard output.

    Raises:
        UserError: it is a file of another kind, or standard output gets JSON already.
    """
    if csv == STDOUT and as_json:
        raise UserError("--json and --csv - both write to standard output; pass one of them")
    return None if csv in (None, STDOUT) else require_replaceable(csv, *headers)


def combine_options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Combine options into one decorator that lists them in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def parse_floats(
    ctx: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    """Parse a number, or three separated by commas."""
    try:
        return read_channel_values(text.split(","), str(parameter.name)) if text else None
    except UserError as error:
        raise click.BadParameter(f"{text!r}: write one number, or three with commas") from error


def parse_threads(
    ctx: click.Context, parameter: click.Parameter, threads: int | None
) -> int | None:
    """Refuse more threads than there are cores."""
    try:
        return threads if threads is None else require_threads(threads)
    except UserError as error:
        raise click.BadParameter(str(error)) from error


builder_option = click.option(
    "--builder",
    metavar="PACKAGE.MODULE:FUNCTION",
    help="Function that builds the network of a weights file, if it is a custom one.",
)

weights_options = combine_options(
    click.option(
        "-w",
        "--weights",
        required=True,
        type=click.Path(path_type=Path),
        help="Weights file, as the model.pth of a run.",
    ),
    builder_option,
)

foreign_options = combine_options(
    click.option(
        "--classes",
        help="Of another program's file: names of its classes, with commas, or a file of them.",
    ),
    click.option(
        "--mean",
        callback=parse_floats,
        help="Of another program's file: mean of each channel; ImageNet's if left out.",
    ),
    click.option(
        "--std",
        callback=parse_floats,
        help="Of another program's file: standard deviation of each channel; ImageNet's.",
    ),
    click.option(
        "--image-size",
        type=click.IntRange(1),
        help="Of another program's file: side of its images, if it takes any.",
    ),
)

budget_options = combine_options(
    click.option(
        "--budget", help="Parameters, at most: 100k, 0.1M, 100_000, or 5% of the network's."
    ),
    click.option(
        "--macs", help="Multiply-adds for one image, at most: 5M, 0.5G, or 5% of the network's."
    ),
    click.option(
        "--file-size",
        help="Size of the weights file, at most: 400KB, 0.4MB, 400KiB, or 30% of the network's.",
    ),
    click.option("--latency", help="Time for one image, at most: 0.4ms, or 20% of the network's."),
    click.option("--speedup", help="How many times as fast as the network: 5x."),
    click.option(
        "--runtime", help="Where time is measured: onnx (default), onnx-int8, openvino or torch."
    ),
    click.option(
        "--threads",
        type=int,
        callback=parse_threads,
        help="Threads of that runtime; 1 by default.",
    ),
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

builders_option = click.option(
    "--builder",
    "builders",
    multiple=True,
    metavar="PACKAGE.MODULE:FUNCTION",
    help="Function that builds a custom network; once for each, if there are several.",
)

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU if there is one.",
)

quick_option = click.option(
    "--quick", is_flag=True, help="Run a small version, in minutes, to try it out."
)

report_options = combine_options(
    click.option(
        "-v", "--verbose", is_flag=True, help="Show every epoch, and the layers after each stage."
    ),
    click.option(
        "--log",
        "tools",
        multiple=True,
        metavar="TOOL",
        help="Also log to tensorboard, mlflow, wandb or trackio; may be repeated.",
    ),
)

pretrained_option = click.option(
    "--pretrained/--no-pretrained",
    default=None,
    help="Start teacher and student from published weights; or from random ones.",
)

SKIP_BROKEN_HELP = "Leave out image files that cannot be read, instead of refusing them."

skip_broken_option = click.option("--skip-broken", is_flag=True, help=SKIP_BROKEN_HELP)

recipe_options = combine_options(
    click.option(
        "--data", help="Data: fashion-mnist, cifar10, …, folder:PATH, csv:FILE or hf:NAME-OR-PATH."
    ),
    click.option("--teacher", help="Teacher: a network's name, or its weights file (*.pth)."),
    click.option(
        "--student",
        help="Student: a network's name; or its weights file (*.pth), and it is its own teacher.",
    ),
    builder_option,
    pretrained_option,
    click.option(
        "--stem",
        type=click.Choice(get_args(Stem)),
        help="First layers of the student; small suits small images.",
    ),
    click.option("--image-size", type=int, help="Resize images to a side of this many pixels."),
    click.option("--max-images", type=int, help="Train on at most this many images."),
    click.option(
        "--data-fraction", type=float, help="Train on this fraction of the images, as 0.25."
    ),
    click.option("--skip-broken/--no-skip-broken", default=None, help=SKIP_BROKEN_HELP),
    click.option("--batch-size", type=int, help="Images in a batch."),
    click.option(
        "--balance",
        type=click.Choice(["auto", "loss", "sampler"]),
        help="Make uneven classes count alike: in the loss, or in how often images are drawn.",
    ),
    click.option(
        "--depth/--no-depth",
        default=None,
        help="Let residual blocks go as a whole, where that costs less than narrower layers.",
    ),
    click.option("--epochs", type=float, help="Epochs of the longest stage; no other is longer."),
    click.option(
        "--steps", type=int, help="Optimizer steps of the longest stage; no other is longer."
    ),
    click.option(
        "--minutes", type=float, help="Time for training and pruning; epochs are fitted to it."
    ),
    click.option("--seed", type=int, help="Seed of everything random."),
    device_option,
    quick_option,
    click.option("--fresh", is_flag=True, help="Discard what an earlier run left in --out."),
)
