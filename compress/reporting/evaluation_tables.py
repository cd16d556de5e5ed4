"""Tables of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compress.reporting.confusion import most_confused
from compress.reporting.mask_metrics import MaskEvaluation
from compress.reporting.mask_tables import (
    confused_pixels_table,
    mask_metrics_table,
    pixel_confusion_table,
    pixel_csv_table,
    pixel_scores_table,
    worst_masks_table,
)
from compress.reporting.metrics import ClassScores, Evaluation
from compress.reporting.tables import Table
from compress.reporting.units import format_accuracy
from compress.runtime.files import CLASSES_CSV_HEADER

# Classes that are shown one by one, at most.
MAX_CLASSES = 40


def metrics_table(found: Evaluation) -> Table:
    """Return the metrics of a whole split, one in each row."""
    shown = {
        "images": f"{found.images:,}",
        "top-1 %": format_accuracy(found.top1),
        "top-5 %": format_accuracy(found.top5),
        "balanced %": format_accuracy(found.balanced),
        "macro F1 %": format_accuracy(found.macro_f1),
        "log loss": f"{found.log_loss:.4f}",
        "calibration error %": format_accuracy(found.calibration_error),
        "temperature": f"{found.temperature:.4g}",
    }
    hidden = {"top-5 %"} if found.top5 is None else set()
    hidden |= {"temperature"} if found.temperature == 1 else set()
    rows = [[name, value] for name, value in shown.items() if name not in hidden]
    split = {"test": "test images", "val": "validation images"}[found.split]
    return Table(["metric", "value"], rows, left=1, title=f"{found.data}: {split}")


def class_scores_table(found: Evaluation) -> Table:
    """Return precision, recall and F1 of each class; of many classes, those with the lowest F1."""
    rows, title = list(found.per_class), None
    if len(rows) > MAX_CLASSES:
        rows = sorted((row for row in rows if row.images), key=lambda row: row.f1)[:MAX_CLASSES]
        title = f"{len(rows)} of {len(found.classes):,} classes, lowest F1 first"
    headings = ["class", "images", "precision %", "recall %", "F1 %"]
    return Table(headings, [_class_row(row) for row in rows], left=1, title=title)


def _class_row(row: ClassScores) -> list[str]:
    recall, f1 = (row.recall, row.f1) if row.images else (None, None)
    scores = map(format_accuracy, (row.precision, recall, f1))
    return [row.name, f"{row.images:,}", *scores]


def confused_table(found: Evaluation) -> Table | None:
    """Return the pairs of classes that are confused most often; None if no image is wrong."""
    rows = [
        [
            found.classes[label],
            found.classes[predicted],
            f"{count:,}",
            f"{count / found.per_class[label].images:.1%}",
        ]
        for count, label, predicted in most_confused(found.confusion)
    ]
    headings = ["class", "taken for", "images", "of the class"]
    return Table(headings, rows, left=2, title="confused most often") if rows else None


def confusion_table(found: Evaluation) -> Table:
    """Return the confusion matrix: a row for each class, a column for each predicted class."""
    rows = [
        [f"{number} {name}", *(f"{count:,}" if count else "·" for count in row)]
        for number, (name, row) in enumerate(zip(found.classes, found.confusion, strict=True))
    ]
    headings = ["class", *map(str, range(len(found.classes)))]
    return Table(headings, rows, left=1, title="confusion: classes by predicted class")


def worst_table(found: Evaluation) -> Table | None:
    """Return the images that are most wrong; None if no image is wrong."""
    rows = [
        [
            image.name,
            f"{image.label} {image.label_probability:.1%}",
            f"{image.predicted} {image.probability:.1%}",
        ]
        for image in found.worst
    ]
    headings = ["image", "label", "predicted"]
    return Table(headings, rows, left=3, title="most wrong") if rows else None


def evaluation_csv_table(found: Evaluation) -> Table:
    """Return a row for each class: its scores, 0 to 1, and its images by predicted class."""
    headings = [*CLASSES_CSV_HEADER.split(","), *(f"predicted {name}" for name in found.classes)]
    rows = [
        [
            row.name,
            str(row.images),
            *(f"{score:.6g}" for score in (row.precision, row.recall, row.f1)),
            *map(str, counts),
        ]
        for row, counts in zip(found.per_class, found.confusion, strict=True)
    ]
    return Table(headings, rows, left=1)


@dataclass(frozen=True)
class EvaluationTables:
    """The functions that make the tables of an evaluation, in the order in which they are shown.

    Args:
        metrics: of the whole split.
        classes: of each class.
        confusion: of each pair of classes.
        confused: of the pairs that are confused most; None if there are none.
        worst: of the images that are most wrong; None if there are none.
        csv: all of the classes, as numbers.
    """

    metrics: Callable[[Any], Table]
    classes: Callable[[Any], Table]
    confusion: Callable[[Any], Table]
    confused: Callable[[Any], Table | None]
    worst: Callable[[Any], Table | None]
    csv: Callable[[Any], Table]


TABLES = {
    Evaluation: EvaluationTables(
        metrics_table,
        class_scores_table,
        confusion_table,
        confused_table,
        worst_table,
        evaluation_csv_table,
    ),
    MaskEvaluation: EvaluationTables(
        mask_metrics_table,
        pixel_scores_table,
        pixel_confusion_table,
        confused_pixels_table,
        worst_masks_table,
        pixel_csv_table,
    ),
}
