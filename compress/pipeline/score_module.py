"""Modules from Python: are they trained for the data, and how do they see its images?"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import torch
from torch import nn

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.data.source import IMAGENET_NORMALIZATION, Normalization
from compress.models.channels import input_channels
from compress.training.evaluate import measure_accuracy
from compress.training.task import make_task

# Validation images on which a module is tried.
SCORED_IMAGES = 500
# Standard errors above the largest class from which a module counts as trained.
SIGNIFICANT = 4.0
# Pixels of 0 to 1, of -1 to 1, and of 0 to 255.
USUAL: tuple[Normalization, ...] = (
    ((0.0,) * 3, (1.0,) * 3),
    ((0.5,) * 3, (0.5,) * 3),
    IMAGENET_NORMALIZATION,
    ((0.0,) * 3, (1 / 255,) * 3),
)


def choose_normalization(
    module: nn.Module, data: Dataset, choices: Sequence[Normalization] | None = None
) -> tuple[float, float, Normalization]:
    """Find the normalization with which a module scores best on validation images.

    Args:
        choices: normalizations to try; if left out, the usual ones, then the data's own.

    Returns:
        The top-1 accuracy, 0 to 1; the accuracy above which a module has learned something; and the
        normalization. A module that does not fit the data has an accuracy of 0.
    """
    count = min(SCORED_IMAGES, data.val_count)
    rows = torch.linspace(0, data.val_count - 1, count).round().long()
    sample = replace(data, val_images=data.val_images.take(rows))
    largest = make_task(data).chance(sample.val_labels)
    chance = largest + SIGNIFICANT * math.sqrt(largest * (1 - largest) / count)
    if choices is None:
        choices = (*USUAL, (data.mean, data.std))
    scores = [0.0] * len(choices)
    for number, choice in enumerate(choices):
        # A module may raise anything; the checks before training say why.
        with suppress(Exception):
            scores[number] = _score(module, sample.normalized(*choice))
    best = max(range(len(choices)), key=lambda number: scores[number])
    mean, std = sample.normalized(*choices[best]).normalization or choices[best]
    return scores[best], chance, (mean, std)


def _score(module: nn.Module, data: Dataset) -> float:
    own, task = copy.deepcopy(module).eval(), make_task(data)
    data = data.for_channels([input_channels(own, data.image_size)])
    with torch.inference_mode():
        shape = own(torch.zeros(2, data.channels, data.image_size, data.image_size)).shape
    if tuple(shape) != task.output_shape(2, data.image_size):
        return 0.0
    batches = plain_batches(data, data.val, batch_size=100)
    return measure_accuracy(own, batches, task)
