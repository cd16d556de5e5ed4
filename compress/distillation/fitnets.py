"""Hints from the middle of the teacher: Romero et al. 2014, arXiv:1412.6550."""

from __future__ import annotations

from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.features import map_loss
from compress.distillation.method import FeatureInputs, Method
from compress.training.objective import Forward, Losses
from compress.training.schedule import find_phase


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return half the squared distance of two maps (B, C, H, W), as a mean over all values.

    Equation 3 of the paper. The larger map is averaged down.
    """
    return map_loss(student, teacher) / 2


class FitNets(nn.Module):
    """Two phases: beta · `hint_loss` up to the guided layer, then the base for all layers.

    The guided layer is the middle one of the taps. Its regressor is a 1×1 convolution; the paper's
    kernel grows with the difference in size. The paper's base is KD.
    """

    # The paper trains each phase to convergence.
    phases = (0.25, 1.0)

    def __init__(self, inputs: FeatureInputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.middle = (len(inputs.student.paths) - 1) // 2
        tapped = (inputs.student, inputs.teacher)
        widths = [network.measure()[self.middle].shape[1] for network in tapped]
        self.regressor = nn.Conv2d(widths[0], widths[1], 1)

    def forward(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        inputs, (phase, within) = self.inputs, find_phase(progress, self.phases)
        if phase == 1:
            return inputs.base(student, batch, within)
        _, targets = inputs.teacher.run(batch.images)
        _, maps = inputs.student.run(batch.images, student)
        hint = hint_loss(self.regressor(maps[self.middle]), targets[self.middle])
        return {"features": inputs.beta * hint}


# Beta is the paper's.
METHOD = Method(alpha=0.5, beta=1.0, on_features=FitNets)
