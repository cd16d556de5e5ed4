"""Decoupled knowledge distillation: Zhao et al. 2022, arXiv:2203.08679."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.data.batches import Batch
from compress.distillation.kd import kd_loss
from compress.distillation.method import LogitsInputs, Method
from compress.training.objective import Forward, Losses

# The loss is phased in over one twelfth of the stage: 20 of 240 epochs in the paper.
PHASE_IN = 12


def dkd_loss(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, beta: float
) -> Tensor:
    """Return T² times the mean over samples of TCKD + beta · NCKD: equation 7 with alpha = 1.

    TCKD is the divergence of the distributions over two classes, the target and any other; NCKD is
    that of the distributions among the other classes.

    Args:
        student, teacher: logits (B, classes), float32; at least two classes.
        target: the class of each sample, int64 (B,).
    """
    target = target[:, None]
    rest = torch.arange(student.shape[1] - 1, device=target.device)
    # By index: selecting by a mask would make the CPU wait for the number of elements.
    rest = rest + (rest >= target)
    others = [logits.gather(1, rest) for logits in (student, teacher)]
    # Logits of two classes: the target, and all others together.
    binary = [
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


class DKD:
    """The base plus `dkd_loss`, which is phased in over the first twelfth of the stage.

    The target class of a mixed sample is the one with the largest part. The paper's base is the
    labels alone.
    """

    def __init__(self, inputs: LogitsInputs) -> None:
        self.inputs = inputs

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        inputs = self.inputs
        logits, target = student(batch.images), inputs.task.class_numbers(batch.targets)
        loss = dkd_loss(logits, inputs.logits(batch), target, inputs.temperature, inputs.beta)
        weight = min(PHASE_IN * progress, 1.0)
        return inputs.base(lambda _: logits, batch, progress) | {"decoupled": weight * loss}


# NCKD's weight of 8 is the paper's for residual networks on CIFAR-100.
METHOD = Method(beta=8.0, on_logits=DKD)
