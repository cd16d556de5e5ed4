"""Attention transfer: Zagoruyko and Komodakis 2016, arXiv:1612.03928."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.data.batches import Batch
from compress.distillation.features import match_sizes
from compress.distillation.method import FeatureInputs, Method
from compress.training.objective import Forward, Losses


def attention_map(maps: Tensor) -> Tensor:
    """Return the spatial attention of maps (B, C, H, W): (B, H·W), of unit length.

    Squares are added over the channels.
    """
    return F.normalize(maps.square().sum(1).flatten(1))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of the attention of two maps (B, C, H, W), of any widths.

    Equation 2 of the paper uses the norm of the difference; its authors' code uses this loss. The
    larger map is averaged down.
    """
    student, teacher = match_sizes(student, teacher)
    return F.mse_loss(attention_map(student), attention_map(teacher))


class Attention:
    """The base plus beta · `attention_loss`, summed over the taps."""

    def __init__(self, inputs: FeatureInputs) -> None:
        self.inputs = inputs

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        inputs = self.inputs
        _, targets = inputs.teacher.run(batch.images)
        logits, maps = inputs.student.run(batch.images, student)
        losses = [attention_loss(m, target) for m, target in zip(maps, targets, strict=True)]
        features = inputs.beta * torch.stack(losses).sum()
        return inputs.base(lambda _: logits, batch, progress) | {"features": features}


# Beta as in the authors' code.
METHOD = Method(beta=1000.0, on_features=Attention)
