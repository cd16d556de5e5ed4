"""Decoupled knowledge distillation: Zhao et al. 2022, arXiv:2203.08679."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.data.batches import Batch
from compress.distillation.kd import kd_loss
from compress.training.trainer import Forward, Objective


def dkd_loss(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, beta: float
) -> Tensor:
    """T² times (TCKD + beta · NCKD), the mean over samples; equation 7 of the paper with its alpha at 1.

    TCKD is the divergence of the two distributions over (target class, any other), NCKD that of the distributions
    among the other classes.

    Args:
        student, teacher: logits (B, classes), float32; two classes at least.
        target: the target class of each sample, int64 (B,).
    """
    target = target[:, None]
    rest = torch.arange(student.shape[1] - 1, device=target.device)
    rest = rest + (
        rest >= target
    )  # by number: to choose by a mask, a GPU would have to tell how many there are
    others = [logits.gather(1, rest) for logits in (student, teacher)]
    binary = [  # logits of the two: the target's, and one for all others together
        torch.cat(
            [
                logits.gather(1, target) / temperature,
                (other / temperature).logsumexp(1, keepdim=True),
            ],
            dim=1,
        )
        for logits, other in zip((student, teacher), others, strict=True)
    ]
    target_class = kd_loss(binary[0], binary[1], 1.0) * temperature**2
    return target_class + beta * kd_loss(others[0], others[1], temperature)


@dataclass(frozen=True)
class DKD:
    """`base` + `dkd_loss`, which comes in over the first twelfth of the stage (20 of 240 epochs in the paper).

    The target class of a mixed sample is the one it has most of.

    Args:
        teacher: a batch to the teacher's logits (B, classes), as `compress.distillation.logits_cache` keeps them.
        base: the loss of the student's answers; the paper's is the labels alone.
        beta: the weight of NCKD, 8 in the paper for residual networks on CIFAR-100.
    """

    teacher: Callable[[Batch], Tensor]
    base: Objective
    beta: float
    temperature: float

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Tensor:
        """The loss of `student` on `batch`, a scalar; `progress` runs from 0 to 1 over the stage."""
        logits, target = student(batch.images), batch.targets.argmax(1)
        loss = dkd_loss(logits, self.teacher(batch), target, self.temperature, self.beta)
        return self.base(lambda _: logits, batch, progress) + min(12 * progress, 1.0) * loss
