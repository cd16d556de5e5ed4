"""The flow of the solution procedure: Yim, Joo, Bae and Kim, "A gift from knowledge distillation", CVPR 2017."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.features import Tapped, projections
from compress.runtime.errors import UserError
from compress.training.trainer import Forward, Objective, phase


def fsp_matrix(first: Tensor, second: Tensor) -> Tensor:
    """How two layers' maps (B, M, H, W) and (B, N, H, W) go together: their product's mean over places, (B, M, N).

    Equation 1 of the paper. If one map is larger, it is max-pooled down to the other's size.
    """
    side = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    first, second = (
        m if m.shape[2:] == side else F.adaptive_max_pool2d(m, side) for m in (first, second)
    )
    return torch.einsum("bmhw,bnhw->bmn", first, second) / (side[0] * side[1])


def fsp_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The squared distance of the two networks' matrices, added over neighbouring layers; equation 2 of the paper,
    with a weight of one by the size of the matrix, so that wide layers count for no more than narrow ones.

    Args:
        student, teacher: maps (B, C, H, W) of two layers or more, of the same widths in both.
    """
    pairs = zip(pairwise(student), pairwise(teacher), strict=True)
    return torch.stack(
        [F.mse_loss(fsp_matrix(*ours), fsp_matrix(*theirs)) for ours, theirs in pairs]
    ).sum()


class FSP(nn.Module):
    """First beta · `fsp_loss`, then `base`, as the paper's two stages.

    The paper's networks are of the same widths. Where they are not, the student's maps go through a 1×1 convolution.

    Args:
        base: the loss of the student's answers; the paper's is the labels alone.
        beta: 1 in the paper.

    Raises:
        UserError: there is only one layer.
    """

    phases = (0.25, 1.0)  # 21,000 iterations and 64,000 in the paper

    def __init__(self, teacher: Tapped, student: Tapped, base: Objective, beta: float) -> None:
        super().__init__()
        if len(student.paths) < 2:
            raise UserError(
                f"taps: method 'fsp' compares layers with each other: name one beside {student.paths[0]!r}"
            )
        self.teacher, self.student, self.base, self.beta = teacher, student, base, beta
        self.projections = projections(student.measure(), teacher.measure())

    def forward(self, student: Forward, batch: Batch, progress: float) -> Tensor:
        """The loss of `student` on `batch`, a scalar; `progress` runs from 0 to 1 over the stage."""
        place, within = phase(progress, self.phases)
        if place == 1:
            return self.base(student, batch, within)
        _, guides = self.teacher.look(batch.images)
        _, maps = self.student.look(batch.images, student)
        projected = [project(m) for project, m in zip(self.projections, maps, strict=True)]
        return self.beta * fsp_loss(projected, guides)
