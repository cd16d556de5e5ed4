"""Evaluation of a model on batches, by the task's metric."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.models.fuse_bn import fuse_conv_bn
from compress.runtime import distributed
from compress.training.forward import make_forward
from compress.training.task import Classification


@dataclass(frozen=True)
class Scores:
    """Accuracies of a model, 0 to 1.

    Args:
        top1: fraction of the images that are classified correctly.
        balanced: mean over the classes of the fraction of each that is classified correctly.
        finite: False if a logit is infinite, or no number.
    """

    top1: float
    balanced: float
    finite: bool = True


@torch.inference_mode()
def measure_scores(
    model: nn.Module,
    batches: Iterable[Batch],
    task: Classification,
    *,
    image_size: int | None = None,
    exact: bool = True,
) -> Scores:
    """Return the accuracies of `model` in evaluation mode.

    In a distributed run each process gets its shard of the batches, and all return the accuracies
    on the whole.

    Args:
        image_size, exact: as for `compress.training.forward.make_forward`.
    """
    counts: Tensor | None = None
    broken: Tensor | int = 0
    forward = make_forward(fuse_conv_bn(model), image_size, exact)
    for batch in batches:
        targets = task.class_numbers(batch.targets)
        logits = forward(batch.images)
        correct = task.correct(logits, targets)
        broken = broken + logits.isfinite().logical_not().sum()
        if counts is None:
            # The counts stay on the device: reading them would wait for a GPU.
            counts = torch.zeros(2, task.classes, dtype=torch.int64, device=targets.device)
        counts[0].scatter_add_(0, targets, correct.long())
        counts[1].scatter_add_(0, targets, torch.ones_like(targets))
    counts = torch.zeros(2, task.classes, dtype=torch.int64) if counts is None else counts.cpu()
    lost = distributed.all_reduce_sum(torch.tensor(int(broken)))
    right, seen = distributed.all_reduce_sum(counts)
    shown = seen > 0
    return Scores(
        int(right.sum()) / max(int(seen.sum()), 1),
        float((right[shown] / seen[shown]).mean()) if bool(shown.any()) else 0.0,
        finite=not int(lost),
    )


def measure_accuracy(
    model: nn.Module,
    batches: Iterable[Batch],
    task: Classification,
    *,
    image_size: int | None = None,
    exact: bool = True,
) -> float:
    """Return the top-1 accuracy of `model`, 0 to 1; see `measure_scores`."""
    return measure_scores(model, batches, task, image_size=image_size, exact=exact).top1
