"""Evaluation of a weights file on a test split."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from compress.data.batches import Batch, plain_batches
from compress.data.scoring import open_scored
from compress.models.checkpoint import Checkpoint
from compress.models.fuse_bn import fuse_conv_bn
from compress.models.memory_format import to_channels_last
from compress.runtime.device import pick_device
from compress.runtime.errors import UserError
from compress.training.task import Classification


@torch.inference_mode()
def score_per_class(
    model: nn.Module, batches: Iterable[Batch], task: Classification
) -> tuple[Tensor, Tensor]:
    """Count correct predictions of `model`, in evaluation mode, by class.

    Returns:
        Correct predictions and images of each class, both int64 (classes,) on the CPU.
    """
    device = next(model.parameters()).device
    correct, total = torch.zeros(2, task.classes, dtype=torch.int64, device=device)
    for batch in batches:
        targets = task.class_numbers(batch.targets.to(device))
        hits = task.correct(model(batch.images.to(device)), targets)
        correct += torch.bincount(targets[hits], minlength=task.classes)
        total += torch.bincount(targets, minlength=task.classes)
    return correct.cpu(), total.cpu()


def score_test_split(
    checkpoint: Checkpoint,
    data: str | None = None,
    device: str = "auto",
    *,
    whole: bool = False,
    skip_broken: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> tuple[Tensor, Tensor]:
    """Count correct predictions on a test split, by class.

    Args:
        data: name of a data set; the one that the model was trained on if left out.
        device: ``auto``, ``cpu`` or ``cuda``.
        whole: score all images of data without a test split that the model was not trained on;
            otherwise a part that is held out.
        skip_broken: leave out image files that cannot be read.
        log: called with a line on what is scored, if it is not a test split.

    Returns:
        As `score_per_class`.

    Raises:
        UserError: the data is not available, or has a class that the weights file does not have.
    """
    target = pick_device(device)
    if not (data or checkpoint.data):
        raise UserError("the file does not say which data it was trained on; pass --data")
    opened = open_scored(
        data or checkpoint.data,
        checkpoint.classes,
        checkpoint.input_size[-1],
        trained_on=checkpoint.data,
        whole=whole,
        skip_broken=skip_broken,
        log=log,
    )
    opened = opened.normalized(checkpoint.mean, checkpoint.std).to(target)
    opened = opened.framed(checkpoint.crop_ratio, checkpoint.background)
    opened = opened.for_channels([checkpoint.input_size[0]])
    model = to_channels_last(fuse_conv_bn(checkpoint.model)).to(target)
    batches = plain_batches(opened, opened.test(), batch_size=500)
    return score_per_class(model, batches, Classification(len(checkpoint.classes)))
