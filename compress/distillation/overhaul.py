"""A comprehensive overhaul of feature distillation: Heo et al. 2019, arXiv:1904.01866."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.features import match_sizes
from compress.distillation.method import FeatureInputs, Method
from compress.training.objective import Forward, Losses


def measure_margins(teacher: Tensor) -> Tensor:
    """Return the mean negative value of each channel of the teacher's maps before ReLU.

    Equation 2 of the paper: from maps (B, C, H, W) to (1, C, 1, 1), never above zero, and zero for
    a channel without negative values.
    """
    negative = teacher.clamp(max=0).sum((0, 2, 3), keepdim=True)
    return negative / (teacher < 0).sum((0, 2, 3), keepdim=True).clamp(min=1)


def overhaul_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Return the partial squared distance of two maps (B, C, H, W) before ReLU.

    It is added over an image and averaged over images. The teacher's values are raised to at least
    `margin`, (1, C, 1, 1) (margin ReLU, equation 1). Where both are negative and the student's is
    lower, a ReLU hides the difference, and it costs nothing (equation 3). The larger map is
    averaged down.
    """
    student, teacher = match_sizes(student, teacher)
    teacher = torch.maximum(teacher, margin)
    hidden = (student <= teacher) & (teacher <= 0)
    return (student - teacher).square().masked_fill(hidden, 0).sum() / len(student)


class Overhaul(nn.Module):
    """The base plus beta · `overhaul_loss`, with a weight that halves from tap to tap.

    The last tap has the full weight. The student's maps go through a 1×1 convolution with batch
    norm. The margins are measured on the example.
    """

    def __init__(self, inputs: FeatureInputs) -> None:
        super().__init__()
        self.inputs = inputs
        targets = inputs.teacher.measure(before_relu=True)
        maps = inputs.student.measure(before_relu=True)
        self.projections = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(m.shape[1], target.shape[1], 1, bias=False),
                nn.BatchNorm2d(target.shape[1]),
            )
            for m, target in zip(maps, targets, strict=True)
        )
        self.margins = [measure_margins(target) for target in targets]

    def forward(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        inputs = self.inputs
        _, targets = inputs.teacher.run(batch.images, before_relu=True)
        logits, maps = inputs.student.run(batch.images, student, before_relu=True)
        losses = inputs.base(lambda _: logits, batch, progress)
        layers = zip(
            inputs.student.paths, self.projections, maps, targets, self.margins, strict=True
        )
        for place, (path, project, m, target, margin) in enumerate(layers, start=1):
            weight = inputs.beta * 0.5 ** (len(maps) - place)
            losses[f"features.{path}"] = weight * overhaul_loss(project(m), target, margin)
        return losses


# Beta is the paper's for CIFAR-100.
METHOD = Method(beta=1e-3, on_features=Overhaul)
