"""Logit distillation: Hinton, Vinyals and Dean 2015, arXiv:1503.02531."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from compress.data.batches import Batch


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² times the mean over samples of KL(softmax(teacher / T) ‖ softmax(student / T)).

    Args:
        student, teacher: logits (B, classes), float32.
        temperature: T. The factor T² keeps the gradient's size independent of it (section 2 of the paper).
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    return (
        F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2
    )


@dataclass(frozen=True)
class KD:
    """(1 - alpha) · cross-entropy with the targets + alpha · `kd_loss` against the teacher.

    With `fade`, alpha falls linearly to zero over the stage: a teacher that the student outgrows should be heard
    early and then no more (Cho and Hariharan 2019, arXiv:1910.01348).

    Args:
        teacher: a batch to the teacher's logits (B, classes), as `compress.distillation.logits_cache` keeps them.
    """

    teacher: Callable[[Batch], Tensor]
    temperature: float
    alpha: float
    fade: bool = False
    smoothing: float = 0.0

    def __call__(
        self, student: Callable[[Tensor], Tensor], batch: Batch, progress: float
    ) -> Tensor:
        """The loss of `student` on `batch`, a scalar; `progress` runs from 0 to 1 over the stage."""
        logits = student(batch.images)
        labels = F.cross_entropy(logits, batch.targets, label_smoothing=self.smoothing)
        alpha = self.alpha * (1 - progress) if self.fade else self.alpha
        return (1 - alpha) * labels + alpha * kd_loss(logits, self.teacher(batch), self.temperature)
