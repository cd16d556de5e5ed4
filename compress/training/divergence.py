"""Divergence: losses, weights and logits that are not finite any more, noticed in time."""

from __future__ import annotations

import math
from itertools import chain

import torch
from torch import Tensor, nn

from compress.runtime import distributed
from compress.runtime.errors import UserError

# How often a stage is taken back to its last good epoch, and the factor of its rate each time.
MAX_RETRIES, LOWER = 3, 0.25
# Steps from one look at a loss on a GPU to the next.
INTERVAL = 20


class DivergedError(UserError):
    """Training has diverged; the message says what is not finite."""


class LossWatch:
    """Looks at the sum of an epoch's losses after each step, without waiting for a GPU.

    From a GPU a copy is asked for, and looked at once it has arrived. The processes of a
    distributed run look at the end of the epoch only, all of them at the same step.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._copy: Tensor | None = None
        self._arrived: torch.cuda.Event | None = None

    def check(self, total: Tensor) -> None:
        """Check the sum of the losses so far.

        Raises:
            DivergedError: it is not finite.
        """
        if distributed.world_size() > 1:
            return
        if total.device.type != "cuda":
            _require_finite(float(total))
            return
        if self._copy is not None and self._arrived is not None and self._arrived.query():  # type: ignore[no-untyped-call]
            _require_finite(float(self._copy))
            self._copy = None
        if self._copy is None and self._steps % INTERVAL == 0:
            self._copy = torch.empty((), pin_memory=True).copy_(total, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
        self._steps += 1


def check_weights(*models: nn.Module) -> None:
    """Check the parameters and buffers of `models`; waits for a GPU once.

    Raises:
        DivergedError: one is not finite.
    """
    tensors = [
        tensor.detach()
        for model in models
        for tensor in chain(model.parameters(), model.buffers())
        if tensor.is_floating_point() and tensor.numel()
    ]
    if tensors and not bool(torch.stack([each.isfinite().all() for each in tensors]).all()):
        raise DivergedError("a weight is not finite")


def _require_finite(loss: float) -> None:
    if not math.isfinite(loss):
        raise DivergedError("the loss is not finite")
