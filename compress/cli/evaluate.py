"""The command `eval`: metrics on labelled images, and calibration."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from compress.cli.command import Command
from compress.cli.load import load_any_model, make_foreign
from compress.cli.options import (
    STDOUT,
    device_option,
    foreign_options,
    json_option,
    require_free,
    require_table,
    skip_broken_option,
    weights_options,
)
from compress.cli.output import echo_csv, echo_line
from compress.recipe.data_names import check_data_name
from compress.runtime.errors import UserError
from compress.runtime.files import (
    CLASSES_CSV_HEADER,
    PIXELS_CSV_HEADER,
    atomic_write,
    require_file,
)

if TYPE_CHECKING:
    from compress.cli.terminal import Terminal
    from compress.models.checkpoint import Checkpoint
    from compress.reporting.mask_metrics import MaskEvaluation
    from compress.reporting.metrics import Evaluation

# Classes of which the whole confusion matrix is shown, if the terminal is wide enough.
MAX_MATRIX = 20


@click.command("eval", cls=Command)
@weights_options
@click.option("--data", help="Data set to score on; that of the training if left out.")
@click.option(
    "--split",
    type=click.Choice(["test", "val"]),
    default="test",
    show_default=True,
    help="Images to score: the test split, or those that training held out for validation.",
)
@click.option(
    "--worst",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Images to name that are most wrong, at most.",
)
@json_option
@click.option(
    "--csv",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write scores and confusion of each class as CSV to this file; - is standard output.",
)
@click.option(
    "--calibrate",
    is_flag=True,
    help="Fit a temperature to validation images and keep it in the weights file.",
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="With --calibrate: weights file to write, instead of changing the file itself.",
)
@skip_broken_option
@foreign_options
@device_option
def evaluate(
    weights: Path,
    builder: str | None,
    data: str | None,
    split: Literal["test", "val"],
    worst: int,
    as_json: bool,
    csv: Path | None,
    calibrate: bool,
    out: Path | None,
    skip_broken: bool,
    classes: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    image_size: int | None,
    device: str,
) -> None:
    """Measure a model on labelled images.

    Shows top-1 and top-5 accuracy, balanced accuracy, macro F1, calibration error, the scores of
    each class, the classes that are confused, and the images that are most wrong; of a network that
    labels pixels, mean IoU and pixel accuracy, and the IoU of each class. Takes weights files and
    exported files.
    """
    check_data_name(data)
    require_file(weights)
    if out and not calibrate:
        raise UserError("--out is for --calibrate, which writes a weights file")
    if out:
        require_free(out)
    table = require_table(csv, as_json, CLASSES_CSV_HEADER, PIXELS_CSV_HEADER)
    # JSON and CSV alone are for other programs.
    log = partial(echo_line, err=as_json or csv == STDOUT)
    checkpoint = load_any_model(weights, builder, make_foreign(classes, mean, std, image_size))

    from compress.reporting.evaluation import collect_answers, name_images, open_split
    from compress.reporting.evaluation_tables import TABLES

    options: dict[str, Any] = {"device": device, "skip_broken": skip_broken, "log": log}
    before = checkpoint.temperature
    if calibrate:
        # A link stays one, and its target is replaced.
        checkpoint = _calibrate(checkpoint, data, out or weights.resolve(), options)
    opened = open_split(checkpoint, data, split=split, whole=True, **options)
    answers = collect_answers(checkpoint, opened, split)
    found = answers.evaluate(temperature=checkpoint.temperature, worst=worst)
    if calibrate:
        error, now = (
            answers.evaluate(temperature=each, worst=0).to_dict()["calibration_error"]
            for each in (before, checkpoint.temperature)
        )
        images = name_images(checkpoint, data, len(opened.test_images().targets), split)
        log(f"calibration error on {images}: {error:.2%} to {now:.2%}")
    if csv == STDOUT:
        echo_csv(TABLES[type(found)].csv(found).as_csv())
        return
    if table:
        with atomic_write(table) as file:
            # Names of folders may be bytes that are not UTF-8.
            file.write(TABLES[type(found)].csv(found).as_csv().encode("utf-8", "surrogateescape"))
    if as_json:
        click.echo(_to_json(found))
    else:
        from compress.cli.terminal import Terminal

        show_evaluation(found, Terminal())


def _calibrate(
    checkpoint: Checkpoint, data: str | None, out: Path, options: dict[str, Any]
) -> Checkpoint:
    """Fit a temperature, and write the weights file with it."""
    from compress.models.checkpoint import save
    from compress.reporting.calibration import calibrate

    calibrated = calibrate(checkpoint, data, **options)
    save(calibrated, out)
    log: Callable[[str], None] = options["log"]
    log(f"{out}: holds the temperature")
    return calibrated


def _to_json(found: Evaluation | MaskEvaluation) -> str:
    """Return JSON with a line for each metric: a confusion matrix may have a million cells."""
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in found.to_dict().items()]
    return "{\n" + ",\n".join(lines) + "\n}"


def show_evaluation(found: Evaluation | MaskEvaluation, terminal: Terminal) -> None:
    """Show an evaluation; the confusion matrix only if the terminal is wide enough."""
    from compress.reporting.evaluation_tables import TABLES

    tables = TABLES[type(found)]
    terminal.show(tables.metrics(found))
    terminal.show(tables.classes(found))
    if len(found.classes) <= MAX_MATRIX and terminal.fits(matrix := tables.confusion(found)):
        terminal.show(matrix)
    for table in (tables.confused(found), tables.worst(found)):
        if table:
            terminal.show(table)
