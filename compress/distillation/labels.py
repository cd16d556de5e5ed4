"""Learning from the labels alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from compress.data.batches import Batch


@dataclass(frozen=True)
class Labels:
    """Cross-entropy with the batch's targets, which may be soft, smoothed by `smoothing`."""

    smoothing: float = 0.0

    def __call__(
        self, student: Callable[[Tensor], Tensor], batch: Batch, progress: float
    ) -> Tensor:
        """The loss of `student` on `batch`, a scalar; `progress` runs from 0 to 1 over the stage."""
        return F.cross_entropy(student(batch.images), batch.targets, label_smoothing=self.smoothing)
