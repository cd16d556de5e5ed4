"""A comprehensive overhaul of feature distillation: Heo et al. 2019, arXiv:1904.01866."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.features import Tapped, same_size
from compress.training.trainer import Forward, Objective


def margins(teacher: Tensor) -> Tensor:
    """The mean of the negative values of each channel of the teacher's maps (B, C, H, W) before ReLU, equation 2:
    (1, C, 1, 1), never above zero, and zero for a channel without any."""
    negative = teacher.clamp(max=0).sum((0, 2, 3), keepdim=True)
    return negative / (teacher < 0).sum((0, 2, 3), keepdim=True).clamp(min=1)


def overhaul_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """The partial squared distance of two maps (B, C, H, W) before ReLU, added over an image, the mean over images.

    The teacher's values are raised to `margin`, (1, C, 1, 1), at least (margin ReLU, equation 1). Where both are
    negative and the student's is the lower one, a ReLU hides the difference, and it costs nothing (equation 3). If one
    map is larger, it is averaged down to the other's size.
    """
    student, teacher = same_size(student, teacher)
    teacher = torch.maximum(teacher, margin)
    hidden = (student <= teacher) & (teacher <= 0)
    return (student - teacher).square().masked_fill(hidden, 0).sum() / len(student)


class Overhaul(nn.Module):
    """`base` + beta · `overhaul_loss`, the last tap's in full, half of it for the one before, and so on.

    The student's maps go through a 1×1 convolution with batch norm. The margins are measured on the example.

    Args:
        base: the loss of the student's answers.
        beta: 0.001 in the paper, for CIFAR-100.
    """

    def __init__(self, teacher: Tapped, student: Tapped, base: Objective, beta: float) -> None:
        super().__init__()
        self.teacher, self.student, self.base, self.beta = teacher, student, base, beta
        guides, maps = teacher.measure(before_relu=True), student.measure(before_relu=True)
        self.projections = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(m.shape[1], guide.shape[1], 1, bias=False), nn.BatchNorm2d(guide.shape[1])
            )
            for m, guide in zip(maps, guides, strict=True)
        )
        self.margins = [margins(guide) for guide in guides]

    def forward(self, student: Forward, batch: Batch, progress: float) -> Tensor:
        """The loss of `student` on `batch`, a scalar; `progress` runs from 0 to 1 over the stage."""
        _, guides = self.teacher.look(batch.images, before_relu=True)
        logits, maps = self.student.look(batch.images, student, before_relu=True)
        loss = self.base(lambda _: logits, batch, progress)
        for place, (project, m, guide) in enumerate(
            zip(self.projections, maps, guides, strict=True), start=1
        ):
            share = 0.5 ** (len(maps) - place)
            loss = loss + self.beta * share * overhaul_loss(
                project(m), guide, self.margins[place - 1]
            )
        return loss
