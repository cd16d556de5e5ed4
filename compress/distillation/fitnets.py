"""Hints from the middle of the teacher: Romero et al. 2014, arXiv:1412.6550."""

from __future__ import annotations

from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.features import Tapped, map_loss
from compress.training.trainer import Forward, Objective, phase


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared distance of two maps (B, C, H, W), equation 3, as a mean over all their values.

    If one map is larger, it is averaged down to the other's size.
    """
    return map_loss(student, teacher) / 2


class FitNets(nn.Module):
    """First beta · `hint_loss`, which trains the student up to its guided layer; then `base`, which trains all of it.

    The guided layer is the middle one of the taps. Its regressor is a convolution, as in the paper, but always 1×1:
    the paper's grows with the difference in size.

    Args:
        base: the loss of the student's answers; the paper's is knowledge distillation.
        beta: 1 in the paper.
    """

    phases = (0.25, 1.0)  # the paper trains each to its end

    def __init__(self, teacher: Tapped, student: Tapped, base: Objective, beta: float) -> None:
        super().__init__()
        self.teacher, self.student, self.base, self.beta = teacher, student, base, beta
        self.middle = (len(student.paths) - 1) // 2
        widths = [tap.measure()[self.middle].shape[1] for tap in (student, teacher)]
        self.regressor = nn.Conv2d(widths[0], widths[1], 1)

    def forward(self, student: Forward, batch: Batch, progress: float) -> Tensor:
        """The loss of `student` on `batch`, a scalar; `progress` runs from 0 to 1 over the stage."""
        place, within = phase(progress, self.phases)
        if place == 1:
            return self.base(student, batch, within)
        _, guides = self.teacher.look(batch.images)
        _, maps = self.student.look(batch.images, student)
        return self.beta * hint_loss(self.regressor(maps[self.middle]), guides[self.middle])
