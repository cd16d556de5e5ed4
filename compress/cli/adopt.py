"""The command `adopt`: networks that were trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from compress.cli.command import Command
from compress.cli.options import builder_option, parse_floats, require_free, skip_broken_option
from compress.cli.output import echo_line
from compress.recipe.data_names import check_data_name
from compress.recipe.registry import Stem
from compress.runtime.errors import UserError
from compress.runtime.files import require_file


@click.command(cls=Command)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--network", help="Network that it belongs to: resnet50, … or as --builder.")
@builder_option
@click.option(
    "--stem",
    type=click.Choice([stem for stem in get_args(Stem) if stem != "auto"]),
    default="imagenet",
    show_default=True,
    help="First layers of the network.",
)
@click.option(
    "--data",
    required=True,
    help="Data it was trained on, its classes in order: cifar10, …, folder:PATH, csv:FILE, …",
)
@skip_broken_option
@click.option(
    "--key", help="Key of FILE that holds the tensors, as model_ema; found by itself if left out."
)
@click.option(
    "--image-size",
    type=click.IntRange(1),
    help="Side of the images it takes, in pixels; the one that scores best if left out.",
)
@click.option(
    "--mean",
    callback=parse_floats,
    help="Mean of each channel in its training: 0.5, or 0.49,0.48,0.45; ImageNet's if left out.",
)
@click.option(
    "--std",
    callback=parse_floats,
    help="Standard deviation of each channel; ImageNet's if left out.",
)
@click.option(
    "--crop-ratio",
    type=click.FloatRange(0.1, 1),
    help="Side of the centre of an image that it sees; 0.875 for photos if left out.",
)
@click.option(
    "--background",
    metavar="COLOR",
    help="Behind transparent parts of images: white, #rrggbb, …; white if left out.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="adopted.pth",
    show_default=True,
    help="Weights file to write.",
)
@click.option("--force", is_flag=True, help="Leave out tensors that the network does not have.")
def adopt(
    file: Path,
    network: str | None,
    builder: str | None,
    stem: Stem,
    data: str,
    skip_broken: bool,
    key: str | None,
    image_size: int | None,
    crop_ratio: float | None,
    background: str | None,
    out: Path,
    force: bool,
    **normalization: Any,
) -> None:
    """Make a weights file of your own network.

    FILE is written by torch.save(model.state_dict(), …), or is a training script's checkpoint that
    contains one, or a safetensors file. Pass the weights file as --student or --teacher to other
    commands.
    """
    named = network or builder
    if named is None or (network and builder):
        raise UserError("name the network, by --network or by --builder")
    require_file(file)
    check_data_name(data)
    require_free(out)

    from compress.models.checkpoint import save
    from compress.pipeline.adopt import adopt
    from compress.recipe.model_spec import ModelSpec
    from compress.training.task import make_plain_task

    given = {key: values for key, values in normalization.items() if values}
    checkpoint, accuracy = adopt(
        file,
        ModelSpec(named, stem),
        data,
        image_size=image_size,
        crop_ratio=crop_ratio,
        background=background,
        key=key,
        skip_broken=skip_broken,
        force=force,
        log=echo_line,
        **given,
    )
    save(checkpoint, out)
    held_out = f"images held out of the training data of {checkpoint.data}"
    metric = make_plain_task(checkpoint.labels, len(checkpoint.classes)).metric
    echo_line(f"{out}: {100 * accuracy:.2f} % {metric} on {held_out}")
    echo_line("if that is too low, check --image-size, --mean, --std and the order of the classes")
