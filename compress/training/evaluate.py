"""Evaluation of a model on batches, by the task's metric."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.models.fuse_bn import fuse_conv_bn
from compress.runtime import distributed
from compress.training.forward import make_forward
from compress.training.task import Classification


@torch.inference_mode()
def measure_accuracy(
    model: nn.Module,
    batches: Iterable[Batch],
    task: Classification,
    *,
    image_size: int | None = None,
    exact: bool = True,
) -> float:
    """Return the top-1 accuracy of `model` in evaluation mode, 0 to 1.

    In a distributed run each process gets its shard of the batches, and all return the accuracy on
    the whole.

    Args:
        image_size, exact: as for `compress.training.forward.make_forward`.
    """
    # The count stays on the device: reading it would wait for a GPU.
    correct: Tensor | int = 0
    seen = 0
    forward = make_forward(fuse_conv_bn(model), image_size, exact)
    for batch in batches:
        correct = correct + task.correct(forward(batch.images), batch.targets).sum()
        seen += len(batch.images)
    correct, seen = map(int, distributed.all_reduce_sum(torch.tensor([int(correct), seen])))
    return correct / max(seen, 1)
