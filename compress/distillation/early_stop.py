"""Early-stopped distillation: Cho and Hariharan 2019, arXiv:1910.01348."""

from __future__ import annotations

from compress.data.batches import Batch
from compress.training.objective import Forward, Losses, Objective


class EarlyStoppedKD:
    """Distills until the student is as good as its teacher, and trains on labels only from the
    next epoch on.

    Args:
        distilling, labels: the objectives before and after.
        accuracy: the teacher's, on the validation split, 0 to 1.
    """

    def __init__(self, distilling: Objective, labels: Objective, accuracy: float) -> None:
        self.distilling, self.labels, self.accuracy = distilling, labels, accuracy
        self.on_epoch_start(0.0)

    def on_epoch_start(self, best: float) -> None:
        """Decide for the next epoch; `best` is the student's best validation accuracy so far, 0 to
        1."""
        self.uses_teacher = best < self.accuracy

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        objective = self.distilling if self.uses_teacher else self.labels
        return objective(student, batch, progress)
