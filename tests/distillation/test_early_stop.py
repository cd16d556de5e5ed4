"""Early-stopped KD: which of its two objectives is used in an epoch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compress.data.batches import Batch
from compress.distillation.early_stop import EarlyStoppedKD
from compress.training.objective import Forward, Losses

BATCH = Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2, 2), torch.arange(2), 0)


def distilling(student: Forward, batch: Batch, progress: float) -> Losses:
    return {"distillation": student(batch.images).sum() + progress}


def labels(student: Forward, batch: Batch, progress: float) -> Losses:
    return {"labels": student(batch.images).sum() + progress}


def student(images: Tensor) -> Tensor:
    return torch.ones(len(images), 2)


@pytest.mark.parametrize(
    ("best", "distills"), [(0.0, True), (0.7999, True), (0.8, False), (0.9, False)]
)
def test_distillation_ends_when_the_student_is_as_good_as_its_teacher(
    best: float, distills: bool
) -> None:
    objective = EarlyStoppedKD(distilling, labels, accuracy=0.8)
    assert objective.uses_teacher
    objective.on_epoch_start(best)
    assert objective.uses_teacher is distills
    losses = objective(student, BATCH, 0.25)
    assert {name: float(loss) for name, loss in losses.items()} == {
        "distillation" if distills else "labels": 4.25
    }


def test_a_teacher_without_accuracy_is_never_used() -> None:
    objective = EarlyStoppedKD(distilling, labels, accuracy=0.0)
    assert not objective.uses_teacher
    assert list(objective(student, BATCH, 0.0)) == ["labels"]
