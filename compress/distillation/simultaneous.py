"""All feature maps at once: Kulkarni et al. 2019, arXiv:1911.06786, the rival of their stagewise training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.features import Tapped, map_loss, projections
from compress.training.trainer import Forward, Objective


def simultaneous_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """The mean squared error of each pair of maps (B, C, H, W), added up.

    Maps of a pair have the same width; if one is larger, it is averaged down to the other's size.
    """
    return torch.stack([map_loss(s, t) for s, t in zip(student, teacher, strict=True)]).sum()


class Simultaneous(nn.Module):
    """`base` + beta · `simultaneous_loss`. Where widths differ, the student's maps go through a 1×1 convolution.

    Args:
        base: the loss of the student's answers.
        beta: 1 in the paper.
    """

    def __init__(self, teacher: Tapped, student: Tapped, base: Objective, beta: float) -> None:
        super().__init__()
        self.teacher, self.student, self.base, self.beta = teacher, student, base, beta
        self.projections = projections(student.measure(), teacher.measure())

    def forward(self, student: Forward, batch: Batch, progress: float) -> Tensor:
        """The loss of `student` on `batch`, a scalar; `progress` runs from 0 to 1 over the stage."""
        _, guides = self.teacher.look(batch.images)
        logits, maps = self.student.look(batch.images, student)
        projected = [project(m) for project, m in zip(self.projections, maps, strict=True)]
        return self.base(lambda _: logits, batch, progress) + self.beta * simultaneous_loss(
            projected, guides
        )
