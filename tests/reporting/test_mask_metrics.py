"""Metrics on masks agree with torchmetrics, and name the worst images."""

from __future__ import annotations

import csv
import io

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_jaccard_index,
    multiclass_precision,
    multiclass_recall,
)

from compress.data.source import IGNORE, Pixels
from compress.reporting.evaluation_tables import TABLES
from compress.reporting.mask_metrics import (
    MaskEvaluation,
    SplitMasks,
    count_masks,
    evaluate_masks,
)
from compress.runtime.errors import UserError

NAMES = ("ground", "coat", "bag", "boot", "hat")


def evaluate(logits: torch.Tensor, masks: torch.Tensor, worst: int = 10) -> MaskEvaluation:
    batches = zip(logits.split(4), masks.split(4), strict=True)
    counted = count_masks(batches, NAMES)
    images = Pixels(torch.zeros(len(masks), 3, 8, 8, dtype=torch.uint8), torch.zeros(len(masks)))
    return evaluate_masks(SplitMasks("made up", "test", NAMES, *counted, images), worst=worst)


def draw(images: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits, and masks of all classes but the last, that do not count in places."""
    random = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 4, (images, 8, 8), generator=random)
    masks[:, 0] = IGNORE
    logits = torch.randn(images, 5, 8, 8, generator=random)
    logits[:, 4] = -9
    return logits, masks


def test_scores_are_those_of_torchmetrics() -> None:
    logits, masks = draw()
    found, predicted = evaluate(logits, masks), logits.argmax(1)
    ious = multiclass_jaccard_index(predicted, masks, 5, average=None, ignore_index=IGNORE)
    assert [row.iou for row in found.per_class[:4]] == pytest.approx(ious[:4].tolist(), abs=1e-6)
    # It neither occurs nor is named.
    assert found.per_class[4].iou is None and found.per_class[4].pixels == 0
    assert found.miou == pytest.approx(float(ious[:4].mean()), abs=1e-6)
    right = multiclass_accuracy(predicted, masks, 5, average="micro", ignore_index=IGNORE)
    assert found.pixel_accuracy == pytest.approx(float(right), abs=1e-6)
    for name, measure in (("precision", multiclass_precision), ("recall", multiclass_recall)):
        expected = measure(predicted, masks, 5, average=None, ignore_index=IGNORE)
        shown = [getattr(row, name) for row in found.per_class]
        assert shown == pytest.approx(expected.tolist(), abs=1e-6)
    assert sum(map(sum, found.confusion)) == found.pixels == 10 * 7 * 8


def test_the_worst_images_come_first() -> None:
    logits, masks = draw(3)
    perfect = torch.nn.functional.one_hot(masks.clamp(max=4), 5).movedim(-1, 1).float()
    logits[0] = perfect[0]
    logits[2] = perfect[2]
    logits[2, :, 5:] = torch.tensor([0.0, 0, 0, 0, 1])[:, None, None]
    found = evaluate(logits, masks)
    # Image 0 is all right.
    assert [image.index for image in found.worst] == [1, 2]
    assert found.worst[1].predicted == "hat" and found.worst[1].name == "image 2"
    assert found.worst[1].accuracy == pytest.approx(4 / 7, abs=1e-6)
    assert len(evaluate(logits, masks, worst=1).worst) == 1
    logits[1, 2, 3, 3] = torch.nan
    with pytest.raises(UserError, match="infinite or no numbers"):
        evaluate(logits, masks)


def test_tables_hold_the_scores() -> None:
    found = evaluate(*draw())
    tables = TABLES[MaskEvaluation]
    rows = dict(tuple(row) for row in tables.metrics(found).rows)
    assert rows["mIoU %"] == f"{100 * found.miou:.2f}" and rows["images"] == "10"
    assert [row[0] for row in tables.classes(found).rows] == list(NAMES)
    assert tables.classes(found).rows[4][2] == "-"
    listed = list(csv.DictReader(io.StringIO(tables.csv(found).as_csv())))
    assert [row["class"] for row in listed] == list(NAMES) and listed[4]["iou"] == ""
    for row, counts in zip(listed, found.confusion, strict=True):
        assert [int(row[f"predicted {name}"]) for name in NAMES] == list(counts)
    worst = tables.worst(found)
    assert worst is not None and len(worst.rows) == 10
    assert tables.confused(found) is not None
    assert len(tables.confusion(found).rows) == 5


def test_the_classes_confused_most_are_two() -> None:
    masks = torch.zeros(1, 8, 8, dtype=torch.int64)
    masks[0, 0], masks[0, 1, :6], masks[0, 2, :5] = 1, 2, 1
    answers = torch.zeros_like(masks)
    # Most wrong pixels are ground's, by class, and most are taken for ground.
    answers[0, 3] = torch.tensor([1, 1, 1, 1, 1, 2, 2, 2])
    answers[0, 4] = torch.tensor([3, 3, 3, 4, 4, 4, 0, 0])
    found = evaluate(torch.nn.functional.one_hot(answers, 5).movedim(-1, 1).float(), masks)
    assert (found.worst[0].label, found.worst[0].predicted) == ("coat", "ground")
