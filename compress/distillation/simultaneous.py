"""All feature maps at once: Kulkarni et al. 2019, arXiv:1911.06786.

The paper compares its stagewise training with this method.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.features import make_projections, map_loss
from compress.distillation.method import FeatureInputs, Method
from compress.training.objective import Forward, Losses


def simultaneous_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Return the sum over pairs of maps (B, C, H, W) of their mean squared errors.

    The maps of a pair have the same width; the larger one is averaged down.
    """
    return torch.stack([map_loss(s, t) for s, t in zip(student, teacher, strict=True)]).sum()


class Simultaneous(nn.Module):
    """The base plus beta · `simultaneous_loss`.

    Where widths differ, the student's maps go through a 1×1 convolution.
    """

    def __init__(self, inputs: FeatureInputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.projections = make_projections(inputs.student.measure(), inputs.teacher.measure())

    def forward(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        inputs = self.inputs
        _, targets = inputs.teacher.run(batch.images)
        logits, maps = inputs.student.run(batch.images, student)
        projected = [project(m) for project, m in zip(self.projections, maps, strict=True)]
        features = inputs.beta * simultaneous_loss(projected, targets)
        return inputs.base(lambda _: logits, batch, progress) | {"features": features}


# Beta is the paper's.
METHOD = Method(beta=1.0, on_features=Simultaneous)
