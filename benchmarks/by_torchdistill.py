"""Distillation by torchdistill (Matsubara 2020, arXiv:2011.12913), for `speed.py`: its distillation
box, set up as its shipped configurations for Hinton's distillation have it, in the loop of its
example of image classification.

Without that loop's meters, for which it fetches the loss from the device at every step.
torchdistill leaves the teacher in the mode in which it comes: here in evaluation mode.
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
    """Train as `plain.train` does, with a teacher."""
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
        "alpha": 1 - ALPHA,  # the labels' part
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
