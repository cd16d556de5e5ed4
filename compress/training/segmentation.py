"""The task of data with masks: a class for each pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.data.source import IGNORE
from compress.recipe.schema import Recipe
from compress.recipe.stages import Train
from compress.runtime.errors import UserError


@dataclass(frozen=True)
class Segmentation:
    """Semantic segmentation: the class of each pixel.

    Targets are masks of class numbers, int64 (B, H, W); pixels that are 255 do not count.

    Args:
        classes: the number of classes.
        dice: weight of the soft Dice loss beside the cross-entropy.
    """

    classes: int
    dice: float = 0.0

    labels = "pixels"
    metric = "mIoU"
    class_metric = "IoU"

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse what only images with one class each have a use for."""
        if recipe.balance is not False:
            raise UserError(f"balance = {recipe.balance!r}: {recipe.data} has masks; remove it")
        for stage in recipe.stages:
            if isinstance(stage, Train):
                _check_augmentation(stage, recipe.data)

    def encode_targets(self, targets: Tensor) -> Tensor:
        """Return the masks, int64 (B, H, W), as they are."""
        return targets

    def class_numbers(self, targets: Tensor) -> Tensor:
        """Return the class of each pixel, int64 (B, H, W)."""
        return targets

    def label_loss(self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of the pixels, plus `dice` times `dice_loss`.

        Args:
            logits: (B, classes, H, W).
        """
        total = F.cross_entropy(
            logits,
            targets,
            ignore_index=IGNORE,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        # A batch of which no pixel counts has a loss of 0.
        loss = total / (targets != IGNORE).sum().clamp(min=1)
        return loss + self.dice * dice_loss(logits, targets) if self.dice else loss

    def predict(self, logits: Tensor) -> Tensor:
        """Return the most likely class of each pixel, int64 (B, H, W)."""
        return logits.argmax(1)

    def summarize(self, probabilities: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return the part of each class in each image, float32 (B, classes), and the masks."""
        found = self.predict(probabilities)
        # Class by class: all at once would take 8 bytes a pixel and class.
        parts = [(found == label).float().mean((1, 2)) for label in range(self.classes)]
        return torch.stack(parts, dim=1), list(found.to(torch.uint8))

    def count(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return, of each class, the pixels found, of the class, and taken for it.

        Returns:
            int64 (3, classes).
        """
        known = targets != IGNORE
        # Pixels that do not count go into a class of their own.
        truth = torch.where(known, targets, self.classes).flatten()
        found = torch.where(known, self.predict(logits), self.classes).flatten()
        hits = torch.where(truth == found, truth, self.classes)
        kinds = torch.stack([hits, truth, found])
        counts = torch.zeros(3, self.classes + 1, dtype=torch.int64, device=kinds.device)
        return counts.scatter_add_(1, kinds, torch.ones_like(kinds))[:, :-1]

    def score(self, counts: Tensor) -> tuple[float, float]:
        """Return the mean IoU of the classes that occur or are named, and the pixel accuracy."""
        hits, truth, _ = counts
        ious = self.class_scores(counts)
        shown = ~ious.isnan()
        mean = float(ious[shown].mean()) if bool(shown.any()) else 0.0
        return mean, int(hits.sum()) / max(int(truth.sum()), 1)

    def class_scores(self, counts: Tensor) -> Tensor:
        """Return the IoU of each class, float64 (classes,): NaN if it neither occurs nor is named.

        It is the intersection of the pixels of a class and those taken for it, divided by their
        union.
        """
        hits, truth, found = counts.double()
        ious: Tensor = hits / (truth + found - hits)
        return ious

    def chance(self, labels: Tensor) -> float:
        """Return the mean IoU of taking all pixels of masks (N, H, W) for the largest class."""
        counts = labels[labels != IGNORE].long().bincount(minlength=self.classes)
        present = max(int((counts > 0).sum()), 1)
        return float(counts.max()) / max(int(counts.sum()), 1) / present

    def describe(self, score: float, images: str) -> str:
        """Describe a mean IoU: ``an mIoU of 20.1% on the 158 validation images``."""
        return f"an mIoU of {score:.1%} on {images}"

    def output_shape(self, batch: int, side: int) -> tuple[int, ...]:
        """Return the shape that the network's output must have for a batch of images."""
        return (batch, self.classes, side, side)

    def example_labels(self, batch: int, side: int) -> Tensor:
        """Return masks of one class each, int64 (B, side, side)."""
        numbers = torch.arange(batch) % self.classes
        return numbers[:, None, None].repeat(1, side, side)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 minus the mean soft Dice coefficient of the classes that occur in a batch.

    Milletari et al. 2016, arXiv:1606.04797, with sums in place of sums of squares. Pixels of a
    target of 255 do not count.

    Args:
        logits: (B, classes, H, W).
        targets: int64 (B, H, W).
    """
    known = (targets != IGNORE)[:, None]
    probabilities = logits.softmax(1) * known
    truth = F.one_hot(torch.where(known[:, 0], targets, 0), logits.shape[1]).movedim(-1, 1) * known
    both = (probabilities * truth).sum((0, 2, 3))
    sizes = truth.sum((0, 2, 3))
    coefficients = 2 * both / (probabilities.sum((0, 2, 3)) + sizes).clamp(min=1e-6)
    occurs = (sizes > 0).float()
    loss: Tensor = 1 - (coefficients * occurs).sum() / occurs.sum().clamp(min=1)
    return loss


def _check_augmentation(stage: Train, data: str) -> None:
    """Refuse augmentation that changes what an image shows where, but not its mask."""
    for key in ("mixup", "cutmix", "auto_augment"):
        if value := getattr(stage, key):
            raise UserError(
                f"{stage.kind}: {key} = {value!r} does not move the masks of {data}; remove it, and"
                " use crop, flip, erase_prob and color_jitter"
            )
    if stage.method == "dkd":
        raise UserError(
            f"{stage.kind}: method 'dkd' is for images with one class each, and {data} has masks;"
            " use 'kd' or 'channelwise'"
        )
