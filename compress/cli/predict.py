"""The command `predict`, which is also a console script of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compress.cli.command import Command
from compress.cli.load import load_any_model, make_foreign
from compress.cli.options import (
    STDOUT,
    device_option,
    foreign_options,
    json_option,
    require_table,
    skip_broken_option,
    weights_options,
)
from compress.cli.output import echo_csv, echo_line
from compress.recipe.data_names import check_data_name
from compress.runtime.errors import UserError
from compress.runtime.files import CSV_HEADER, require_file, require_folder

if TYPE_CHECKING:
    from compress.deployment.predict import Prediction
    from compress.models.checkpoint import Checkpoint


@click.command(cls=Command)
@click.argument("images", nargs=-1)
@weights_options
@click.option(
    "--top",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Classes to show for each image.",
)
@click.option(
    "--invert",
    is_flag=True,
    help="Swap light and dark, for dark objects on light ground if it was trained on the reverse.",
)
@click.option(
    "--background",
    metavar="COLOR",
    help="Behind transparent parts: white, #rrggbb, …; as in training if left out.",
)
@json_option
@click.option(
    "--csv",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write CSV to this file; - is standard output.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write masks and overlays to this folder, for a network that labels pixels.",
)
@click.option(
    "--data",
    help="Without IMAGES: data set whose test split is scored; that of the training if left out.",
)
@skip_broken_option
@foreign_options
@device_option
def predict(
    images: tuple[str, ...],
    weights: Path,
    builder: str | None,
    top: int,
    invert: bool,
    background: str | None,
    as_json: bool,
    csv: Path | None,
    out: Path | None,
    data: str | None,
    skip_broken: bool,
    classes: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    image_size: int | None,
    device: str,
) -> int:
    """Classify images, or their pixels.

    IMAGES are files, folders, globs, or - for standard input. Without any, the test split of the
    data set is scored class by class; or all of it, if it has no splits and is not that of the
    training. Images in subfolders named like classes are scored too. The exit code is 1 if an image
    cannot be read.
    """
    if images and skip_broken:
        raise UserError("--skip-broken is for --data; images that cannot be read are named anyway")
    if not images and (as_json or csv or out or invert or background):
        raise UserError(
            "--json, --csv, --out, --invert and --background need IMAGES; name files, folders or"
            " globs"
        )
    check_data_name(data)
    require_file(weights)
    require_table(csv, as_json, CSV_HEADER)
    if out:
        require_folder(out)
    foreign = make_foreign(classes, mean, std, image_size)
    checkpoint = load_any_model(weights, builder, foreign)
    if out is not None and checkpoint.labels != "pixels":
        raise UserError("--out is for networks that label pixels; this one classifies images")
    if not images:
        _show_score(checkpoint, data, device, skip_broken)
        return 0

    from compress.deployment.labels import add_labels
    from compress.deployment.predict import predict
    from compress.deployment.write_masks import mask_files

    found = _find_images(images, checkpoint)
    files, labels = [image for image, _ in found], [label for _, label in found]
    if out is not None:
        mask_files(files, out)
    predictions = add_labels(
        predict(checkpoint, files, top=top, invert=invert, background=background, device=device),
        labels,
    )
    _deliver(predictions, checkpoint, csv, out, as_json)
    unreadable = [prediction for prediction in predictions if prediction.error]
    for prediction in unreadable:
        echo_line(f"{prediction.image}: {prediction.error}", err=True)
    return 1 if unreadable else 0


def _show_score(checkpoint: Checkpoint, data: str | None, device: str, skip_broken: bool) -> None:
    """Score a test split, and show the table of its classes."""
    from compress.cli.terminal import Terminal
    from compress.reporting.evaluation import score_test_split
    from compress.reporting.tables import classes_table
    from compress.training.task import make_plain_task

    terminal = Terminal()
    counts = score_test_split(
        checkpoint, data, device, whole=True, skip_broken=skip_broken, log=terminal.show
    )
    task = make_plain_task(checkpoint.labels, len(checkpoint.classes))
    terminal.show(classes_table(task, checkpoint.classes, counts))


def _find_images(images: tuple[str, ...], checkpoint: Checkpoint) -> list[tuple[str, str | None]]:
    """Return the image files, each with the class that its folder names.

    Raises:
        UserError: a folder holds no images.
    """
    from compress.deployment.labels import find_labelled_images

    # The folder of an image says nothing about its pixels.
    classes = checkpoint.classes if checkpoint.labels == "images" else ()
    found = find_labelled_images(images, classes)
    for file, _ in found:
        # A folder stands for itself where it holds no image.
        # Path.is_dir() raises an error if the name is too long for a path.
        if file in images and os.path.isdir(file):  # noqa: PTH112
            raise UserError(f"{file}: holds no images; name a folder that does, files or globs")
    return found


def _deliver(
    predictions: list[Prediction],
    checkpoint: Checkpoint,
    csv: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Write predictions to files, or show them, and the accuracy where classes are known."""
    from compress.cli.terminal import Terminal
    from compress.deployment.labels import measure_label_accuracy
    from compress.deployment.write_masks import write_masks
    from compress.deployment.write_predictions import to_csv, to_json, write_csv
    from compress.reporting.tables import predictions_table

    terminal = Terminal()
    # JSON and CSV alone are for other programs.
    piped = as_json or csv == STDOUT
    if out is not None:
        for file in write_masks(predictions, out, crop_ratio=checkpoint.crop_ratio):
            echo_line(str(file), err=piped)
    if csv == STDOUT:
        echo_csv(to_csv(predictions))
    elif csv:
        write_csv(predictions, csv)
    if as_json:
        click.echo(to_json(predictions))
    elif not csv and not out:
        terminal.show(predictions_table(predictions))
    if (accuracy := measure_label_accuracy(predictions)) and not piped:
        terminal.show(str(accuracy))
