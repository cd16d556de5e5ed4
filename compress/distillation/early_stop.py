"""Early-stopped distillation: Cho and Hariharan 2019, arXiv:1910.01348."""

from __future__ import annotations

from torch import nn

from compress.data.batches import Batch
from compress.training.objective import Forward, Losses, Objective


class EarlyStoppedKD(nn.Module):
    """Distills until the student is as good as its teacher, then trains on the labels only.

    It switches at the start of an epoch. The parameters and phases of the objective that distills
    are its own.

    Args:
        distilling, labels: the objectives before and after.
        accuracy: the teacher's accuracy on the validation split, 0 to 1.
    """

    def __init__(self, distilling: Objective, labels: Objective, accuracy: float) -> None:
        super().__init__()
        self.distilling, self.labels, self.accuracy = distilling, labels, accuracy
        self.phases: tuple[float, ...] = getattr(distilling, "phases", (1.0,))
        self.uses_teacher = accuracy > 0

    def on_epoch_start(self, best: float) -> None:
        """Choose the objective of the next epoch.

        `best` is the student's best validation accuracy so far, 0 to 1.
        """
        self.uses_teacher = best < self.accuracy
        if start := getattr(self.distilling, "on_epoch_start", None):
            start(best)

    def forward(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        objective = self.distilling if self.uses_teacher else self.labels
        return objective(student, batch, progress)
