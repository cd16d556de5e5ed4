"""Knowledge distillation on logits: Hinton, Vinyals and Dean 2015, arXiv:1503.02531."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from compress.data.batches import Batch
from compress.distillation.method import Logits, Method
from compress.training.objective import Forward, Losses
from compress.training.task import Task


def kd_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² times the mean over samples of KL(softmax(teacher / T) ‖ softmax(student / T)).

    Args:
        student, teacher: logits (B, classes), float32; or (B, classes, H, W), whose pixels are
            the samples.
        temperature: T. The factor T² keeps the size of the gradients independent of T (section 2
            of the paper).

    Example:
        >>> kd_loss(torch.randn(8, 10), torch.randn(8, 10), temperature=4.0).shape
        torch.Size([])
    """
    student, teacher = (logits.movedim(1, -1).flatten(0, -2) for logits in (student, teacher))
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher / temperature, dim=1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


@dataclass(frozen=True)
class KD:
    """(1 - alpha) · loss on the labels + alpha · `kd_loss`.

    Args:
        logits: the teacher's logits.
        temperature: temperature of both softmaxes.
        alpha: weight of `kd_loss`, 0 to 1.
        fade: let alpha fall linearly to zero over the stage. A student that overtakes its teacher
            gains from it only early on (Cho and Hariharan 2019, arXiv:1910.01348).
        label_smoothing: smoothing of the targets, 0 to 1.
    """

    task: Task
    logits: Logits
    temperature: float
    alpha: float
    fade: bool = False
    label_smoothing: float = 0.0

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        logits = student(batch.images)
        labels = self.task.label_loss(logits, batch.targets, self.label_smoothing)
        alpha = self.alpha * (1 - progress) if self.fade else self.alpha
        distillation = kd_loss(logits, self.logits(batch), self.temperature)
        return {"labels": (1 - alpha) * labels, "distillation": alpha * distillation}


METHOD = Method(alpha=0.5)
