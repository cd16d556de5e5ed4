"""Predictions as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compress.deployment.labels import LabelAccuracy, measure_label_accuracy
from compress.deployment.predict import Prediction
from compress.runtime.errors import UserError
from compress.runtime.files import CSV_HEADER, atomic_write, require_replaceable
from compress.runtime.text import safe_cell

COLUMNS = tuple(CSV_HEADER.split(","))
LABEL_COLUMNS = ("label", "correct", "accuracy", "balanced_accuracy")


def to_json(predictions: Iterable[Prediction]) -> str:
    """Return a JSON list of {"image", "top": [{"class", "probability"}]}, plus "error" if any.

    If images have labels, it is an object of "accuracy", "balanced_accuracy" if the classes have
    different numbers of images, and that list as "predictions", with "label" and "correct".
    """
    predictions = list(predictions)
    accuracy = measure_label_accuracy(predictions)
    rows = [_to_dict(prediction) for prediction in predictions]
    if accuracy is None:
        return json.dumps(rows, indent=2)
    scores = {"accuracy": accuracy.top1, "balanced_accuracy": accuracy.balanced}
    known = {key: value for key, value in scores.items() if value is not None}
    return json.dumps(known | {"predictions": rows}, indent=2)


def _to_dict(prediction: Prediction) -> dict[str, Any]:
    row: dict[str, Any] = {
        "image": prediction.image,
        "top": [{"class": name, "probability": value} for name, value in prediction.top],
    }
    if prediction.error is not None:
        row["error"] = prediction.error
    if prediction.label is not None:
        row |= {"label": prediction.label, "correct": prediction.correct}
    return row


def write_csv(predictions: Iterable[Prediction], path: str | Path) -> None:
    """Write the table of `to_csv` to a file, completely or not at all.

    A symbolic link stays one; its target is replaced, if it is empty or such a table.

    Raises:
        UserError: `path` cannot be written, or is a file of another kind.
    """
    target, table = require_replaceable(path, CSV_HEADER), to_csv(predictions)
    try:
        with atomic_write(target) as file:
            file.write(table.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def to_csv(predictions: Iterable[Prediction]) -> str:
    """Return image, rank, class, probability and error: a line per class, or one for an error.

    The most likely class has rank 1. If images have labels, four columns follow: label, correct (1
    or 0), and the accuracy and balanced accuracy of all images, the same in every line. No
    spreadsheet takes a cell for a formula (see `safe_cell`).
    """
    predictions = list(predictions)
    accuracy = measure_label_accuracy(predictions)
    text = io.StringIO(newline="")
    table = csv.writer(text)

    def write_row(cells: Iterable[object]) -> None:
        table.writerow(map(safe_cell, cells))

    write_row(COLUMNS + (LABEL_COLUMNS if accuracy else ()))
    for prediction in predictions:
        labels = _label_cells(prediction, accuracy) if accuracy else ()
        for rank, (name, value) in enumerate(prediction.top, start=1):
            write_row((prediction.image, rank, name, value, "", *labels))
        if prediction.error is not None:
            write_row((prediction.image, "", "", "", prediction.error, *labels))
    return text.getvalue()


def _label_cells(prediction: Prediction, accuracy: LabelAccuracy) -> tuple[object, ...]:
    balanced = "" if accuracy.balanced is None else accuracy.balanced
    correct = "" if prediction.correct is None else int(prediction.correct)
    return (prediction.label or "", correct, accuracy.top1, balanced)
