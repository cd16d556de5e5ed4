"""Flow of the solution procedure (FSP): Yim, Joo, Bae and Kim, CVPR 2017.

Published as "A gift from knowledge distillation: fast optimization, network minimization and
transfer learning".
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.features import make_projections
from compress.distillation.method import FeatureInputs, Method
from compress.runtime.errors import UserError
from compress.training.objective import Forward, Losses
from compress.training.schedule import find_phase


def fsp_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Return the FSP matrix (B, M, N) of two layers' maps, (B, M, H, W) and (B, N, H, W).

    Equation 1 of the paper: the product of the maps, averaged over positions. The larger map is
    max-pooled down.
    """
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    first, second = (
        m if m.shape[2:] == size else F.adaptive_max_pool2d(m, size) for m in (first, second)
    )
    return torch.einsum("bmhw,bnhw->bmn", first, second) / (size[0] * size[1])


def fsp_loss(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Return the squared distance of the networks' FSP matrices, summed over pairs of neighbouring
    layers.

    Equation 2 of the paper, with each distance divided by the size of the matrix, so that wide
    layers count no more than narrow ones.

    Args:
        student, teacher: maps (B, C, H, W) of at least two layers, of the same widths in both.
    """
    pairs = zip(pairwise(student), pairwise(teacher), strict=True)
    losses = [F.mse_loss(fsp_matrix(*ours), fsp_matrix(*theirs)) for ours, theirs in pairs]
    return torch.stack(losses).sum()


class FSP(nn.Module):
    """Two phases: beta · `fsp_loss`, then the base.

    They are the paper's two stages; its base is the labels alone. The paper's networks have equal
    widths. Where widths differ, the student's maps go through a 1×1 convolution.

    Raises:
        UserError: there is only one tap.
    """

    # In the paper: 21,000 iterations and 64,000.
    phases = (0.25, 1.0)

    def __init__(self, inputs: FeatureInputs) -> None:
        super().__init__()
        if len(inputs.student.paths) < 2:
            tap = inputs.student.paths[0]
            raise UserError(
                f"taps: method 'fsp' compares layers with each other: add a second to {tap!r}"
            )
        self.inputs = inputs
        self.projections = make_projections(inputs.student.measure(), inputs.teacher.measure())

    def forward(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        inputs, (phase, within) = self.inputs, find_phase(progress, self.phases)
        if phase == 1:
            return inputs.base(student, batch, within)
        _, targets = inputs.teacher.run(batch.images)
        _, maps = inputs.student.run(batch.images, student)
        projected = [project(m) for project, m in zip(self.projections, maps, strict=True)]
        return {"features": inputs.beta * fsp_loss(projected, targets)}


# Beta is the paper's.
METHOD = Method(beta=1.0, on_features=FSP)
