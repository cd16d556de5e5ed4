"""The task of data with a class for each image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.recipe.schema import Recipe
from compress.runtime.errors import UserError


@dataclass(frozen=True)
class Classification:
    """Single-label classification.

    Targets are class numbers, int64 (B,), or distributions over classes, float32 (B, classes), as
    mixup and CutMix make them.

    Args:
        classes: the number of classes.
        log_priors: logarithm of the frequency of each class, for the logit-adjusted loss (Menon et
            al. 2020, arXiv:2007.07314); the loss is the plain one if left out.
    """

    classes: int
    log_priors: tuple[float, ...] | None = None

    labels = "images"
    metric = "accuracy"
    class_metric = "accuracy"

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse what only masks have a use for."""
        if recipe.dice:
            raise UserError(f"dice = {recipe.dice:g}: {recipe.data} has no masks; remove it")

    def encode_targets(self, targets: Tensor) -> Tensor:
        """Encode class numbers, int64 (B,), as targets that can be mixed, float32 (B, classes)."""
        return F.one_hot(targets, self.classes).float()

    def class_numbers(self, targets: Tensor) -> Tensor:
        """Return the class of each target, int64 (B,); of a mixed one, the class it has most of."""
        return targets.argmax(1) if targets.is_floating_point() else targets

    def label_loss(self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of logits (B, classes) with the targets.

        The logit-adjusted loss adds the logarithms of the classes' frequencies to the logits. The
        logits themselves then treat all classes as equally frequent.
        """
        if self.log_priors is not None:
            logits = logits + logits.new_tensor(self.log_priors)
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)

    def predict(self, logits: Tensor) -> Tensor:
        """Return the most likely class of each image, int64 (B,), of logits (B, classes)."""
        return logits.argmax(1)

    def summarize(self, probabilities: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return the probabilities (B, classes) as they are; images have no masks."""
        return probabilities, [None] * len(probabilities)

    def count(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the correct predictions, and the images, of each class: int64 (2, classes)."""
        numbers = self.class_numbers(targets)
        # The counts stay on the device: reading them would wait for a GPU.
        counts = torch.zeros(2, self.classes, dtype=torch.int64, device=numbers.device)
        counts[0].scatter_add_(0, numbers, (self.predict(logits) == numbers).long())
        counts[1].scatter_add_(0, numbers, torch.ones_like(numbers))
        return counts

    def class_scores(self, counts: Tensor) -> Tensor:
        """Return the accuracy of each class, float64 (classes,): NaN if it has no images."""
        right, seen = counts.double()
        scores: Tensor = right / seen
        return scores

    def score(self, counts: Tensor) -> tuple[float, float]:
        """Return the top-1 accuracy, and the mean of the accuracies of the classes that occur."""
        right, seen = counts
        shown = seen > 0
        return (
            int(right.sum()) / max(int(seen.sum()), 1),
            float((right[shown] / seen[shown]).mean()) if bool(shown.any()) else 0.0,
        )

    def chance(self, labels: Tensor) -> float:
        """Return the fraction of the images, int64 (N,), that are of the largest class."""
        return float(labels.bincount().max()) / len(labels)

    def describe(self, score: float, images: str) -> str:
        """Describe an accuracy: ``20.1% of the 158 validation images``."""
        return f"{score:.1%} of {images}"

    def output_shape(self, batch: int, side: int) -> tuple[int, ...]:
        """Return the shape that the network's output must have for a batch of images."""
        return (batch, self.classes)

    def example_labels(self, batch: int, side: int) -> Tensor:
        """Return class numbers, int64 (B,)."""
        return torch.arange(batch) % self.classes
