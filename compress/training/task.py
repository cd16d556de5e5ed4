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
        log_priors: logarithm of the frequency of each class, for the logit-adjusted loss (Menon et
            al. 2020, arXiv:2007.07314); the loss is the plain one if left out.
    """

    classes: int
    log_priors: tuple[float, ...] | None = None

    metric = "top-1 accuracy"

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

    def correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return a mask of the correct predictions: bool (B,)."""
        return self.predict(logits) == self.class_numbers(targets)

    def output_shape(self, batch: int) -> tuple[int, ...]:
        """Return the shape that the network's output must have for a batch of images."""
        return (batch, self.classes)
