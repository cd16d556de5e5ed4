"""Metrics of a network that labels pixels on a split with masks, computed batch by batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from compress.data.source import IGNORE, Images
from compress.reporting.metrics import find_path
from compress.runtime.errors import UserError
from compress.training.segmentation import Segmentation


@dataclass(frozen=True)
class SplitMasks:
    """How often a network takes the pixels of a split for which class.

    Args:
        data: name of the data set.
        split: ``test`` or ``val``.
        classes: names of the classes, in the order of the logits.
        confusion: number of pixels, by class in rows and by predicted class in columns, int64
            (classes, classes).
        counts: of each image, what its score is made of, int64 (N, 3, classes); see
            `Segmentation.count`.
        confused: the class in each image that is taken for another one most often, and that one,
            int64 (N, 2).
        images: the images, in the same order.
    """

    data: str
    split: str
    classes: tuple[str, ...]
    confusion: Tensor
    counts: Tensor
    confused: Tensor
    images: Images

    def evaluate(self, *, temperature: float = 1.0, worst: int = 10) -> MaskEvaluation:
        """Compute the metrics: see `evaluate_masks`. The temperature changes none of them."""
        return evaluate_masks(self, worst=worst)


@dataclass(frozen=True)
class PixelScores:
    """Scores of the pixels of one class, 0 to 1.

    Args:
        pixels: number of pixels of this class.
        iou: intersection over union; None if the class neither occurs nor is named.
        precision: fraction of the pixels predicted as this class that belong to it; 0 if none is.
        recall: fraction of the pixels of this class that are predicted as it; 0 without any.
    """

    name: str
    pixels: int
    iou: float | None
    precision: float
    recall: float


@dataclass(frozen=True)
class WorstMask:
    """An image whose pixels are labelled badly.

    Args:
        index: its row in the split.
        path: its file, if it has one of its own.
        miou: mean IoU of the classes that occur in it or are named.
        accuracy: fraction of its pixels that are right.
        label: the class whose pixels are taken for another one most often.
        predicted: that class.
    """

    index: int
    path: str | None
    miou: float
    accuracy: float
    label: str
    predicted: str

    @property
    def name(self) -> str:
        """The path, or the index of an image that has none."""
        return self.path or f"image {self.index}"


@dataclass(frozen=True)
class MaskEvaluation:
    """Metrics of a network on a split with masks; fractions are 0 to 1.

    Args:
        data: name of the data set.
        split: ``test`` or ``val``.
        images: number of images.
        pixels: number of pixels that have a class.
        miou: mean IoU of the classes that occur or are named.
        pixel_accuracy: fraction of the pixels whose most likely class is right.
        balanced: mean recall of the classes that occur.
        classes: names of the classes, in the order of the logits.
        confusion: number of pixels, by class in rows and by predicted class in columns.
        per_class: scores of each class, in the order of `classes`.
        worst: images that are not all right, the lowest mean IoU first.
    """

    data: str
    split: str
    images: int
    pixels: int
    miou: float
    pixel_accuracy: float
    balanced: float
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    per_class: tuple[PixelScores, ...]
    worst: tuple[WorstMask, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics in the types of JSON."""
        return asdict(self)


def count_masks(
    answers: Iterable[tuple[Tensor, Tensor]], classes: tuple[str, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return confusion, counts and confused classes: see `SplitMasks`.

    Args:
        answers: logits (B, classes, H, W) with their masks, int64 (B, H, W), batch by batch.

    Raises:
        UserError: a logit is infinite, or no number.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    task, kinds = Segmentation(len(classes)), len(classes)
    confusion = torch.zeros(kinds, kinds, dtype=torch.int64)
    counts: list[Tensor] = []
    confused: list[Tensor] = []
    for logits, masks in answers:
        if not bool(logits.isfinite().all()):
            raise UserError(
                "the logits of some pixels are infinite or no numbers: the network is damaged"
            )
        for row in range(len(masks)):
            answer, mask = logits[row : row + 1], masks[row : row + 1]
            predicted = task.predict(answer)
            one = multiclass_confusion_matrix(predicted, mask, kinds, ignore_index=IGNORE)
            confusion += one
            counts.append(task.count(answer, mask))
            most = one.fill_diagonal_(-1).argmax()
            confused.append(torch.stack([most // kinds, most % kinds]))
    return confusion, torch.stack(counts), torch.stack(confused)


def evaluate_masks(found: SplitMasks, *, worst: int = 10) -> MaskEvaluation:
    """Compute the metrics of counted pixels.

    Args:
        worst: number of images to name, at most.
    """
    task, total = Segmentation(len(found.classes)), found.counts.sum(0)
    miou, accuracy = task.score(total)
    hits, truth, named = total.double()
    seen = truth > 0
    ious = task.class_scores(total)
    precision, recall = hits / named.clamp(min=1), hits / truth.clamp(min=1)
    return MaskEvaluation(
        data=found.data,
        split=found.split,
        images=len(found.counts),
        pixels=int(truth.sum()),
        miou=_round(miou),
        pixel_accuracy=_round(accuracy),
        balanced=_round(recall[seen].mean()) if bool(seen.any()) else 0.0,
        classes=found.classes,
        confusion=tuple(map(tuple, found.confusion.tolist())),
        per_class=tuple(
            PixelScores(
                name,
                int(truth[number]),
                None if ious[number].isnan() else _round(ious[number]),
                _round(precision[number]),
                _round(recall[number]),
            )
            for number, name in enumerate(found.classes)
        ),
        worst=_find_worst(found, task, worst),
    )


def _find_worst(found: SplitMasks, task: Segmentation, count: int) -> tuple[WorstMask, ...]:
    """Return the images that are not all right, the lowest mean IoU first."""
    scores = [task.score(counts) for counts in found.counts]
    wrong = [row for row, (miou, _) in enumerate(scores) if miou < 1]
    # Without any pixel that counts, nothing is wrong.
    wrong = [row for row in wrong if int(found.counts[row, 1].sum())]
    chosen = sorted(wrong, key=lambda row: scores[row])[:count]
    return tuple(
        WorstMask(
            index=row,
            path=find_path(found.images, row),
            miou=_round(scores[row][0]),
            accuracy=_round(scores[row][1]),
            label=found.classes[int(found.confused[row, 0])],
            predicted=found.classes[int(found.confused[row, 1])],
        )
        for row in chosen
    )


def _round(value: Tensor | float) -> float:
    return round(float(value), 6)
