"""Metrics of a network on a labelled split, computed from its logits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from compress.data.source import Files, Images
from compress.runtime.errors import UserError
from compress.training.classification import Classification

# Bins of the expected calibration error, as in Guo et al. 2017 (arXiv:1706.04599).
CALIBRATION_BINS = 15
TOP = 5


@dataclass(frozen=True)
class SplitLogits:
    """The logits of a network for each image of a split.

    Args:
        data: name of the data set.
        split: ``test`` or ``val``.
        classes: names of the classes, in the order of the logits.
        logits: float32 (N, classes), on the CPU.
        targets: class numbers, int64 (N,).
        images: the images, in the same order.
    """

    data: str
    split: str
    classes: tuple[str, ...]
    logits: Tensor
    targets: Tensor
    images: Images

    def path(self, row: int) -> str | None:
        """Return the path of an image; None if it is not in a file of its own."""
        return find_path(self.images, row)

    def evaluate(self, *, temperature: float = 1.0, worst: int = 10) -> Evaluation:
        """Compute the metrics: see `evaluate_logits`."""
        return evaluate_logits(self, temperature=temperature, worst=worst)


def find_path(images: Images, row: int) -> str | None:
    """Return the path of an image; None if it is not in a file of its own."""
    return str(images.root / images.names[row]) if isinstance(images, Files) else None


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class, 0 to 1.

    Args:
        images: number of images of this class; without any, recall and F1 are 0.
        precision: fraction of the images predicted as this class that belong to it; 0 if none is.
        recall: fraction of the images of this class that are predicted as it.
        f1: harmonic mean of the two.
    """

    name: str
    images: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class WorstImage:
    """An image that is classified wrongly.

    Args:
        index: its row in the split.
        path: its file, if it has one of its own.
        label: its class.
        predicted: the class that the network takes it for.
        probability: probability of the predicted class.
        label_probability: probability of its own class.
    """

    index: int
    path: str | None
    label: str
    predicted: str
    probability: float
    label_probability: float

    @property
    def name(self) -> str:
        """The path, or the index of an image that has none."""
        return self.path or f"image {self.index}"


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a network on a labelled split; fractions are 0 to 1.

    Args:
        data: name of the data set.
        split: ``test`` or ``val``.
        images: number of images.
        top1: fraction whose most likely class is right.
        top5: fraction whose class is among the five most likely; None for five classes or fewer.
        balanced: mean recall of the classes that have images.
        macro_f1: mean F1 of the classes that have images or are predicted.
        log_loss: mean cross-entropy of the probabilities.
        calibration_error: expected calibration error, of 15 bins.
        temperature: the probabilities are of logits divided by it.
        classes: names of the classes, in the order of the logits.
        confusion: number of images, by class in rows and by predicted class in columns.
        per_class: scores of each class, in the order of `classes`.
        worst: images classified wrongly, the least likely label first.
    """

    data: str
    split: str
    images: int
    top1: float
    top5: float | None
    balanced: float
    macro_f1: float
    log_loss: float
    calibration_error: float
    temperature: float
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    per_class: tuple[ClassScores, ...]
    worst: tuple[WorstImage, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics in the types of JSON."""
        return asdict(self)


def evaluate_logits(found: SplitLogits, *, temperature: float = 1.0, worst: int = 10) -> Evaluation:
    """Compute the metrics of logits.

    Args:
        temperature: divides the logits before they become probabilities; see `calibrate`.
        worst: number of images to name, at most.

    Raises:
        UserError: a logit is infinite, or no number.
    """
    from torchmetrics.functional.classification import (
        multiclass_calibration_error,
        multiclass_confusion_matrix,
        multiclass_f1_score,
    )

    task = Classification(len(found.classes))
    broken = int((~found.logits.isfinite()).any(1).sum())
    if broken:
        raise UserError(
            f"the logits of {broken:,} images are infinite or no numbers: the network is damaged"
        )
    predicted = task.predict(found.logits)
    probabilities = (found.logits / temperature).softmax(1)
    kinds = len(found.classes)
    confusion = multiclass_confusion_matrix(predicted, found.targets, kinds)
    seen = confusion.sum(1) > 0
    recall = confusion.diag()[seen].double() / confusion.sum(1)[seen]
    return Evaluation(
        data=found.data,
        split=found.split,
        images=len(found.targets),
        top1=int(confusion.trace()) / len(found.targets),
        top5=_measure_top(found) if kinds > TOP else None,
        balanced=float(recall.mean()),
        macro_f1=_round(multiclass_f1_score(predicted, found.targets, kinds, average="macro")),
        log_loss=_round(task.label_loss(found.logits.double() / temperature, found.targets)),
        calibration_error=_round(
            multiclass_calibration_error(probabilities, found.targets, kinds, CALIBRATION_BINS)
        ),
        temperature=temperature,
        classes=found.classes,
        confusion=tuple(map(tuple, confusion.tolist())),
        per_class=_score_classes(found, predicted, confusion),
        worst=_find_worst(found, predicted, probabilities, worst),
    )


def _round(value: Tensor) -> float:
    """Return a value of float32 without the digits that it does not have."""
    return round(float(value), 6)


def _measure_top(found: SplitLogits) -> float:
    hits = found.logits.topk(TOP).indices == found.targets[:, None]
    return int(hits.any(1).sum()) / len(found.targets)


def _score_classes(
    found: SplitLogits, predicted: Tensor, confusion: Tensor
) -> tuple[ClassScores, ...]:
    from torchmetrics.functional.classification import (
        multiclass_f1_score,
        multiclass_precision,
        multiclass_recall,
    )

    scores = [
        measure(predicted, found.targets, len(found.classes), average="none").tolist()
        for measure in (multiclass_precision, multiclass_recall, multiclass_f1_score)
    ]
    return tuple(
        ClassScores(name, images, *(round(value, 6) for value in values))
        for name, images, *values in zip(
            found.classes, confusion.sum(1).tolist(), *scores, strict=True
        )
    )


def _find_worst(
    found: SplitLogits, predicted: Tensor, probabilities: Tensor, count: int
) -> tuple[WorstImage, ...]:
    """Return the images that are classified wrongly, the least likely label first."""
    wrong = (predicted != found.targets).nonzero()[:, 0]
    # Logarithms tell apart what is 0 as a float32.
    known = found.logits[wrong].log_softmax(1).gather(1, found.targets[wrong, None])[:, 0]
    rows = wrong[known.argsort(stable=True)[:count]].tolist()
    return tuple(
        WorstImage(
            index=row,
            path=found.path(row),
            label=found.classes[int(found.targets[row])],
            predicted=found.classes[int(predicted[row])],
            probability=_round(probabilities[row, predicted[row]]),
            label_probability=_round(probabilities[row, found.targets[row]]),
        )
        for row in rows
    )
