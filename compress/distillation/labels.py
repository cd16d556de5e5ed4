"""Training on the labels alone."""

from __future__ import annotations

from dataclasses import dataclass

from compress.data.batches import Batch
from compress.distillation.method import Method
from compress.training.objective import Forward, Losses
from compress.training.task import Task


@dataclass(frozen=True)
class Labels:
    """The task's loss on the labels.

    Args:
        label_smoothing: smoothing of the targets, 0 to 1.
    """

    task: Task
    label_smoothing: float = 0.0

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`."""
        logits = student(batch.images)
        return {"labels": self.task.label_loss(logits, batch.targets, self.label_smoothing)}


METHOD = Method()
