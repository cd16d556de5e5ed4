"""Early-stopped KD: which objective trains the next epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.early_stop import EarlyStoppedKD
from compress.distillation.method import Teacher
from compress.training.objective import Forward, Losses

BATCH = Batch(torch.zeros(2, 3, 4, 4), torch.eye(2), torch.arange(2), 0)


def forward(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :2]


def distilling(student: Forward, batch: Batch, progress: float) -> Losses:
    return {"distillation": student(batch.images).sum() + progress}


def labels(student: Forward, batch: Batch, progress: float) -> Losses:
    return {"labels": student(batch.images).sum() + progress}


def test_distillation_ends_at_the_teachers_accuracy() -> None:
    objective = EarlyStoppedKD(distilling, labels, accuracy=0.7)
    names = []
    for best in (0.0, 0.6, 0.7, 0.8):
        objective.on_epoch_start(best)
        losses = objective(forward, BATCH, 0.5)
        assert [float(loss) for loss in losses.values()] == [0.5]
        assert objective.uses_teacher == ("distillation" in losses)
        names += losses
    assert names == ["distillation", "distillation", "labels", "labels"]


def test_a_new_objective_distills() -> None:
    objective = EarlyStoppedKD(distilling, labels, accuracy=0.7)
    assert objective.uses_teacher and list(objective(forward, BATCH, 0.0)) == ["distillation"]


class Scaled(nn.Module):
    """An objective with a parameter, phases, and a record of the accuracies that it is told."""

    phases = (0.5, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.told: list[float] = []

    def on_epoch_start(self, best: float) -> None:
        self.told.append(best)

    def forward(self, student: Forward, batch: Batch, progress: float) -> Losses:
        return {"distillation": self.scale * student(batch.images).sum()}


def test_parameters_and_phases_are_those_of_the_objective_that_distills() -> None:
    scaled = Scaled()
    objective = EarlyStoppedKD(scaled, labels, accuracy=0.7)
    assert list(objective.parameters()) == [scaled.scale] and objective.phases == (0.5, 1.0)
    for best in (0.2, 0.9):
        objective.on_epoch_start(best)
    assert scaled.told == [0.2, 0.9]
    assert EarlyStoppedKD(distilling, labels, accuracy=0.7).phases == (1.0,)


def test_a_teacher_of_unknown_accuracy_distills_to_the_end() -> None:
    teacher = Teacher(nn.Identity(), 4)
    objective = EarlyStoppedKD(distilling, labels, teacher.val_accuracy)
    objective.on_epoch_start(0.999)
    assert objective.uses_teacher and list(objective(forward, BATCH, 0.0)) == ["distillation"]
