"""Tables of an evaluation on masks."""

from __future__ import annotations

from compress.reporting.confusion import most_confused, to_fractions
from compress.reporting.mask_metrics import MaskEvaluation
from compress.reporting.tables import Table
from compress.reporting.units import format_accuracy
from compress.runtime.files import PIXELS_CSV_HEADER

# Classes that are shown one by one, at most.
MAX_CLASSES = 40


def mask_metrics_table(found: MaskEvaluation) -> Table:
    """Return the metrics of a whole split, one in each row."""
    rows = [
        ["images", f"{found.images:,}"],
        ["mIoU %", format_accuracy(found.miou)],
        ["pixel accuracy %", format_accuracy(found.pixel_accuracy)],
        ["balanced %", format_accuracy(found.balanced)],
    ]
    split = {"test": "test images", "val": "validation images"}[found.split]
    return Table(["metric", "value"], rows, left=1, title=f"{found.data}: {split}")


def pixel_scores_table(found: MaskEvaluation) -> Table:
    """Return IoU, precision and recall of each class; of many classes, those of the lowest IoU."""
    rows, title = list(found.per_class), None
    if len(rows) > MAX_CLASSES:
        known = [row for row in rows if row.iou is not None]
        rows = sorted(known, key=lambda row: row.iou or 0.0)[:MAX_CLASSES]
        title = f"{len(rows)} of {len(found.classes):,} classes, lowest IoU first"
    shown = [
        [row.name, f"{row.pixels:,}", *map(format_accuracy, (row.iou, row.precision, row.recall))]
        for row in rows
    ]
    headings = ["class", "pixels", "IoU %", "precision %", "recall %"]
    return Table(headings, shown, left=1, title=title)


def confused_pixels_table(found: MaskEvaluation) -> Table | None:
    """Return the pairs of classes whose pixels are confused most often; None if none is wrong."""
    rows = [
        [
            found.classes[label],
            found.classes[predicted],
            f"{count / max(found.pixels, 1):.2%}",
            f"{count / found.per_class[label].pixels:.1%}",
        ]
        for count, label, predicted in most_confused(found.confusion)
    ]
    headings = ["class", "taken for", "of all pixels", "of the class"]
    return Table(headings, rows, left=2, title="confused most often") if rows else None


def pixel_confusion_table(found: MaskEvaluation) -> Table:
    """Return the percentages of each class's pixels by predicted class."""
    rows = [
        [f"{number} {name}", *(f"{100 * part:.1f}" if part else "·" for part in parts)]
        for number, (name, parts) in enumerate(
            zip(found.classes, to_fractions(found.confusion), strict=True)
        )
    ]
    headings = ["class", *map(str, range(len(found.classes)))]
    return Table(headings, rows, left=1, title="confusion: % of a class by predicted class")


def worst_masks_table(found: MaskEvaluation) -> Table | None:
    """Return the images with the lowest mean IoU; None if all pixels are right."""
    rows = [
        [
            image.name,
            f"{image.label} for {image.predicted}",
            format_accuracy(image.miou),
            format_accuracy(image.accuracy),
        ]
        for image in found.worst
    ]
    headings = ["image", "taken for", "mIoU %", "pixels right %"]
    return Table(headings, rows, left=2, title="most wrong") if rows else None


def pixel_csv_table(found: MaskEvaluation) -> Table:
    """Return a row for each class: its scores, 0 to 1, and its pixels by predicted class."""
    headings = [*PIXELS_CSV_HEADER.split(","), *(f"predicted {name}" for name in found.classes)]
    rows = [
        [
            row.name,
            str(row.pixels),
            "" if row.iou is None else f"{row.iou:.6g}",
            f"{row.precision:.6g}",
            f"{row.recall:.6g}",
            *map(str, counts),
        ]
        for row, counts in zip(found.per_class, found.confusion, strict=True)
    ]
    return Table(headings, rows, left=1)
