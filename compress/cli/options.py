"""What the commands share: their flags, and how they answer a user's mistake. Free of torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from compress.runtime.errors import UserError, is_out_of_memory, one_line


def answers(stopped: str = "stopped") -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Make a user's mistake, or a full disk or memory, one line on standard error and exit code 2; Ctrl-C the line
    `stopped` and 130."""

    def decorate(command: Callable[..., int | None]) -> Callable[..., None]:
        @wraps(command)
        def wrapped(**flags: Any) -> None:
            try:
                code = command(**flags)
            except BrokenPipeError:  # nobody reads on, as with `| head`; click knows what to do
                raise
            except (UserError, OSError) as error:
                click.echo(f"error: {error}", err=True)
                sys.exit(2)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                click.echo(
                    f"error: out of memory; with a smaller `batch` a recipe needs less ({one_line(error)})",
                    err=True,
                )
                sys.exit(2)
            except KeyboardInterrupt:
                click.echo(stopped, err=True)
                sys.exit(130)
            sys.exit(code or 0)

        return wrapped

    return decorate


def _options(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Options that several commands have, in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def values(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    """A number, or some with commas between."""
    try:
        return tuple(float(part) for part in text.split(",")) if text else None
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r}: write a number, or three with commas between"
        ) from error


own = click.option(
    "--own", help="the function that builds the network, as package.module:function, if it is yours"
)
weights = _options(
    click.option(
        "-w",
        "--weights",
        required=True,
        type=click.Path(path_type=Path),
        help="a weights file, as model.pth",
    ),
    own,
)
budgets = _options(
    click.option("--budget", help="parameters: 100k, 0.1M, 100_000, or 5% of the network's"),
    click.option("--macs", help="multiply-adds for one image: 5M, 0.5G, or 5% of the network's"),
    click.option("--file-size", help="the weights file's size: 400KB, 0.4MB, 400KiB, or 30% of it"),
)
device = click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
setup = _options(
    click.option("--data", help="fashion-mnist, cifar10, imagenette, … or folder:PATH"),
    click.option("--teacher", help="a network's name, or a trained teacher's weights file (*.pth)"),
    click.option(
        "--student", help="a network's name, or the weights file of a trained one, its own teacher"
    ),
    click.option(
        "--stem", type=click.Choice(["imagenet", "half", "small"]), help="small suits small images"
    ),
    click.option("--image-size", type=int, help="resize images to a side of this many pixels"),
    click.option("--max-images", type=int, help="train on this many images"),
    click.option("--data-fraction", type=float, help="train on this share of the images, as 0.25"),
    click.option(
        "--minutes",
        type=float,
        help="what training and pruning are to take; epochs are fitted to it",
    ),
    click.option("--seed", type=int),
    device,
    click.option("--quick", is_flag=True, help="the same stages in minutes, for trying out"),
    click.option(
        "--fresh", is_flag=True, help="throw away what an earlier run left in the run directory"
    ),
)
