"""Distillation by torchdistill (Matsubara 2020, arXiv:2011.12913), for `speed.py`.

It uses torchdistill's distillation box, configured as in its shipped configurations for Hinton's
KD, in the loop of its image classification example. The loop's meters are left out, because they
fetch the loss from the device at every step. torchdistill does not change the teacher's mode; here
the teacher is in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from plain import ALPHA, RATE, TEMPERATURE, epochs
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchdistill.core.distillation import get_distillation_box


def train(
    model: nn.Module,
    loader: DataLoader[tuple[Tensor, Tensor]],
    teacher: nn.Module,
    device: torch.device,
) -> Iterator[int]:
    """Train like `plain.train`, with a teacher."""
    box = get_distillation_box(teacher.eval(), model, {}, _configuration(), device, None, False, 1)
    box.pre_epoch_process(epoch=0)
    for inputs, labels in epochs(loader):
        loss = box.forward_process(inputs.to(device), labels.to(device), {})
        box.post_forward_process(loss=loss)
        yield len(inputs)


def _configuration() -> dict[str, Any]:
    distance = {
        "student_module_path": ".",
        "student_module_io": "output",
        "teacher_module_path": ".",
        "teacher_module_io": "output",
        "temperature": TEMPERATURE,
        # The weight of the labels.
        "alpha": 1 - ALPHA,
        "reduction": "batchmean",
    }
    terms = {"kd": {"criterion": {"key": "KDLoss", "kwargs": distance}, "weight": 1.0}}
    return {
        "num_epochs": 1,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": RATE}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }
