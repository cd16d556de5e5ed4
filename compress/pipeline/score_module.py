"""Modules from Python: are they trained for the data, and how do they see its images?"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.data.source import IMAGENET_NORMALIZATION, Normalization
from compress.models.channels import input_channels
from compress.runtime.errors import UserError, one_line
from compress.training.evaluate import measure_accuracy
from compress.training.task import Task, make_task

# Images on which a module is tried, at most; with fewer validation images than the second number,
# training images are taken if there are more of them.
SCORED_IMAGES, FEW_IMAGES = 500, 50
# Standard errors above the largest class from which a module counts as trained.
SIGNIFICANT = 4.0
# Few or uneven images say little by that; a module then counts as trained by Cohen's kappa, from
# this on, if at most so many of the shuffled labels agree as well with what it predicts.
AGREEMENT, SHUFFLES, AS_GOOD = 0.6, 4000, 4
# Pixels of 0 to 1, of -1 to 1, and of 0 to 255.
USUAL: tuple[Normalization, ...] = (
    ((0.0,) * 3, (1.0,) * 3),
    ((0.5,) * 3, (0.5,) * 3),
    IMAGENET_NORMALIZATION,
    ((0.0,) * 3, (1 / 255,) * 3),
)


@dataclass(frozen=True)
class ScoredModule:
    """What a module does on images of the data.

    Args:
        score: the task's score, 0 to 1; 0 if the module does not fit the data.
        trained: True if the score shows that the module has learned something.
        normalization: that with which it scores best.
        images: the images, in a sentence: ``the 60 validation images``.
        reason: why the module is not trained, whatever the score, or does not fit the data; empty
            if only the score decides.
    """

    score: float
    trained: bool
    normalization: Normalization
    images: str
    reason: str = ""


def score_module(
    module: nn.Module, data: Dataset, choices: Sequence[Normalization] | None = None
) -> ScoredModule:
    """Score a module on images of the data, with the normalization that suits it best.

    Args:
        choices: normalizations to try; if left out, the usual ones, then the data's own.
    """
    few = data.val_count < min(FEW_IMAGES, data.train_count)
    images = data.train_images if few else data.val_images
    count = min(SCORED_IMAGES, len(images.targets))
    rows = torch.linspace(0, len(images.targets) - 1, count).round().long()
    sample, task = replace(data, val_images=images.take(rows)), make_task(data)
    if choices is None:
        choices = (*USUAL, (data.mean, data.std))
    scores, reason = [0.0] * len(choices), ""
    for number, choice in enumerate(choices):
        try:
            scores[number] = _score(module, sample.normalized(*choice), task)
        # A module may raise anything.
        except Exception as error:
            reason = one_line(error)
    if not reason and has_new_norms(module):
        # On easy images, one untrained network in ten is right by luck.
        reason = "its batch norms have seen no image"
    best = max(range(len(choices)), key=lambda number: scores[number])
    seen = sample.normalized(*choices[best])
    return ScoredModule(
        score=scores[best],
        trained=not reason and _has_learned(module, seen, task, scores[best], few),
        normalization=seen.normalization or choices[best],
        images=f"the {count:,} {'training' if few else 'validation'} images",
        reason=reason,
    )


def has_new_norms(module: nn.Module) -> bool:
    """Return True if a module has batch norms, and all have the statistics that they start with."""
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    seen: list[Any] = [(norm.running_mean, norm.running_var) for norm in norms]
    seen = [(mean, var) for mean, var in seen if mean is not None]
    return bool(seen) and not any(bool(mean.any() or (var != 1).any()) for mean, var in seen)


def _prepare(module: nn.Module, data: Dataset) -> tuple[nn.Module, Dataset]:
    own = copy.deepcopy(module).eval()
    return own, data.for_channels([input_channels(own, data.image_size)])


def _score(module: nn.Module, data: Dataset, task: Task) -> float:
    own, data = _prepare(module, data)
    with torch.inference_mode():
        shape = own(torch.zeros(2, data.channels, data.image_size, data.image_size)).shape
    expected = task.output_shape(2, data.image_size)
    if shape != expected:
        raise UserError(f"it returns {tuple(shape)} for two images, not {expected}")
    return measure_accuracy(own, plain_batches(data, data.val), task)


def _has_learned(module: nn.Module, data: Dataset, task: Task, score: float, few: bool) -> bool:
    labels = data.val_labels
    largest = task.chance(labels)
    margin = SIGNIFICANT * math.sqrt(largest * (1 - largest) / len(labels))
    if data.has_masks:
        return score > largest + min(margin, (1 - largest) / 2)
    if not few and score > largest + margin:
        return True
    return score > 0 and agrees(_predict(module, data, task), labels)


@torch.inference_mode()
def _predict(module: nn.Module, data: Dataset, task: Task) -> Tensor:
    own, data = _prepare(module, data)
    batches = plain_batches(data, data.val)
    return torch.cat([task.predict(own(batch.images)) for batch in batches])


def agrees(predictions: Tensor, labels: Tensor) -> bool:
    """Return True if predictions agree with labels as those of a trained network do.

    Cohen's kappa allows for how often each class occurs, and is predicted. A permutation test shows
    that so few images do not agree by chance.

    Args:
        predictions, labels: class numbers, int64 (N,).

    Example:
        >>> agrees(torch.arange(12) % 2, torch.arange(12) % 2)
        True
    """
    right = (predictions == labels).sum()
    generator = torch.Generator().manual_seed(0)
    orders = torch.rand(SHUFFLES, len(labels), generator=generator).argsort(1)
    by_chance = (predictions == labels[orders]).sum(1)
    expected = by_chance.double().mean()
    kappa = (right - expected) / (len(labels) - expected).clamp(min=1e-9)
    return bool(kappa >= AGREEMENT) and int((by_chance >= right).sum()) <= AS_GOOD
