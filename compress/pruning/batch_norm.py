"""Batch norm statistics after a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def reestimate_batchnorm(
    model: nn.Module, forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor]
) -> None:
    """Replace the running statistics of every batch norm of `model` by averages over `batches`.

    A cut changes the distribution of a normalization's inputs, which its old statistics describe.
    Only batch norms are in training mode meanwhile: dropout and the like are off, as they will be
    when the network is used.

    Args:
        forward: runs `model` on one batch of images.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    training = model.training
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        # None is a plain average over the batches.
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for images in batches:
            forward(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(training)
