"""Tasks: the encoding of targets, the loss on labels, the metric, and the shape of outputs.

Classification is the only task. A second one, such as segmentation, is a class with the same
methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Classification:
    """Single-label classification.

    Targets are class numbers, int64 (B,), or distributions over classes, float32 (B, classes), as
    mixup and CutMix make them.

    Args:
        classes: the number of classes.
        weights: weight of each class in the loss on labels; all are 1 if left out.
    """

    classes: int
    weights: tuple[float, ...] | None = None

    metric = "top-1 accuracy"

    def encode_targets(self, targets: Tensor) -> Tensor:
        """Encode class numbers, int64 (B,), as targets that can be mixed, float32 (B, classes)."""
        return F.one_hot(targets, self.classes).float()

    def class_numbers(self, targets: Tensor) -> Tensor:
        """Return the class of each target, int64 (B,); of a mixed one, the class it has most of."""
        return targets.argmax(1) if targets.is_floating_point() else targets

    def label_loss(self, logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean cross-entropy of logits (B, classes) with the targets.

        With class weights, each image has the weight of its class; weights that are 1 on average
        over the images leave the size of the loss as it is.
        """
        weight = None if self.weights is None else logits.new_tensor(self.weights)
        return F.cross_entropy(logits, targets, weight, label_smoothing=label_smoothing)

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return a mask of the correct predictions: bool (B,)."""
        return logits.argmax(1) == self.class_numbers(targets)

    def output_shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape that the network's output must have for a batch of images."""
        return (batch, self.classes)
