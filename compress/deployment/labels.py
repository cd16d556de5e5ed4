"""Labels of images in folders of classes, and the accuracy of predictions on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compress.data.decode import find_images
from compress.deployment.predict import Prediction
from compress.runtime.text import normalize_name


@dataclass(frozen=True)
class LabelAccuracy:
    """Accuracy of predictions on labelled images.

    Args:
        correct, total: number of correct predictions, and of labelled images that can be read.
        balanced: mean accuracy of the classes, 0 to 1; None if all have equally many images.
        unlabelled: number of images without a label that can be read.
    """

    correct: int
    total: int
    balanced: float | None
    unlabelled: int = 0

    @property
    def top1(self) -> float:
        """Top-1 accuracy, 0 to 1."""
        return self.correct / self.total

    def __str__(self) -> str:
        balanced = "" if self.balanced is None else f"; balanced {self.balanced:.2%}"
        left = f"; {self.unlabelled} more without a label" if self.unlabelled else ""
        return f"accuracy {self.top1:.2%} ({self.correct} of {self.total} images){balanced}{left}"


def find_labelled_images(
    patterns: Iterable[str], classes: Sequence[str]
) -> list[tuple[str, str | None]]:
    """Find images as `find_images` does, each with the class whose folder it lies in.

    Only folders inside of a folder that is named count; of several, the innermost. Case does not
    matter where that is clear. The label is None elsewhere.

    Example:
        >>> find_labelled_images(["new"], ["cat", "dog"])
        [('new/cat/1.jpg', 'cat'), ('new/unsorted/2.jpg', None)]
    """
    spelled = {normalize_name(each): each for each in classes}
    lower = Counter(each.lower() for each in spelled)
    known = {each.lower(): spelled[each] for each in spelled if lower[each.lower()] == 1}
    known |= spelled

    def label(folder: Path, image: str) -> str | None:
        inside = Path(image).relative_to(folder).parent.parts
        parts = map(normalize_name, reversed(inside))
        found = (known.get(part) or known.get(part.lower()) for part in parts)
        return next(filter(None, found), None)

    return [
        (image, label(Path(pattern), image) if image != pattern and _is_folder(pattern) else None)
        for pattern in patterns
        for image in find_images([pattern])
    ]


def _is_folder(pattern: str) -> bool:
    try:
        return bool(pattern) and Path(pattern).is_dir()
    # The name is too long, for example.
    except OSError:
        return False


def add_labels(predictions: Iterable[Prediction], labels: Iterable[str | None]) -> list[Prediction]:
    """Return the predictions with the labels of their images."""
    pairs = zip(predictions, labels, strict=True)
    return [replace(prediction, label=label) for prediction, label in pairs]


def measure_label_accuracy(predictions: Iterable[Prediction]) -> LabelAccuracy | None:
    """Measure the accuracy of predictions whose images have labels; None if none has one.

    Images that cannot be read do not count.
    """
    readable = [each for each in predictions if each.error is None]
    labelled = [each for each in readable if each.label is not None]
    if not labelled:
        return None
    total = Counter(each.label for each in labelled)
    right = Counter(each.label for each in labelled if each.correct)
    even = len(set(total.values())) == 1
    balanced = sum(right[label] / count for label, count in total.items()) / len(total)
    return LabelAccuracy(
        right.total(),
        len(labelled),
        None if even else balanced,
        len(readable) - len(labelled),
    )
