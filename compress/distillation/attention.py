"""Attention transfer: Zagoruyko and Komodakis 2016, arXiv:1612.03928."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.data.batches import Batch
from compress.distillation.features import Tapped, same_size
from compress.training.trainer import Forward, Objective


def attention(maps: Tensor) -> Tensor:
    """Where the maps (B, C, H, W) are strong: their squares added over channels, each image's made a unit vector:
    (B, H·W)."""
    return F.normalize(maps.square().sum(1).flatten(1))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of the attention of two maps (B, C, H, W), of whatever widths.

    The paper's equation 2 has the norm of the difference, its authors' code this. If one map is larger, it is
    averaged down to the other's size.
    """
    student, teacher = same_size(student, teacher)
    return F.mse_loss(attention(student), attention(teacher))


@dataclass(frozen=True)
class Attention:
    """`base` + beta · `attention_loss`, added over the taps.

    Args:
        base: the loss of the student's answers.
        beta: 1000 in the authors' code.
    """

    teacher: Tapped
    student: Tapped
    base: Objective
    beta: float

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Tensor:
        """The loss of `student` on `batch`, a scalar; `progress` runs from 0 to 1 over the stage."""
        _, guides = self.teacher.look(batch.images)
        logits, maps = self.student.look(batch.images, student)
        losses = [attention_loss(m, guide) for m, guide in zip(maps, guides, strict=True)]
        return self.base(lambda _: logits, batch, progress) + self.beta * torch.stack(losses).sum()
