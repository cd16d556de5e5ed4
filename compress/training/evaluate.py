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
from compress.training.task import Task


@dataclass(frozen=True)
class Scores:
    """Scores of a model, 0 to 1.

    Args:
        main: the task's score: top-1 accuracy, or the mean IoU of masks.
        second: balanced accuracy, the mean over the classes of the fraction of each that is
            classified correctly; or the fraction of pixels that are.
        finite: False if a logit is infinite, or no number.
    """

    main: float
    second: float
    finite: bool = True


@torch.inference_mode()
def measure_scores(
    model: nn.Module,
    batches: Iterable[Batch],
    task: Task,
    *,
    image_size: int | None = None,
    exact: bool = True,
) -> Scores:
    """Return the scores of `model` in evaluation mode.

    In a distributed run each process gets its shard of the batches, and all return the scores on
    the whole.

    Args:
        image_size, exact: as for `compress.training.forward.make_forward`.
    """
    counts: Tensor | None = None
    broken: Tensor | int = 0
    forward = make_forward(fuse_conv_bn(model), image_size, exact)
    for batch in batches:
        logits = forward(batch.images)
        counted = task.count(logits, batch.targets)
        broken = broken + logits.isfinite().logical_not().sum()
        # The counts stay on the device: reading them would wait for a GPU.
        counts = counted if counts is None else counts + counted
    if counts is None:
        side = image_size or 1
        counts = torch.zeros_like(
            task.count(torch.zeros(task.output_shape(1, side)), task.example_labels(1, side))
        )
    lost = distributed.all_reduce_sum(torch.tensor(int(broken)))
    main, second = task.score(distributed.all_reduce_sum(counts.cpu()))
    return Scores(main, second, finite=not int(lost))


def measure_accuracy(
    model: nn.Module,
    batches: Iterable[Batch],
    task: Task,
    *,
    image_size: int | None = None,
    exact: bool = True,
) -> float:
    """Return the task's score of `model`, 0 to 1; see `measure_scores`."""
    return measure_scores(model, batches, task, image_size=image_size, exact=exact).main
