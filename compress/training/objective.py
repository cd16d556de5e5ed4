"""Objectives: the named losses that training minimizes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Protocol

from torch import Tensor

from compress.data.batches import Batch
from compress.runtime.errors import UserError
from compress.training.events import PLAIN_METRICS

Forward = Callable[[Tensor], Tensor]

# Named losses, each a scalar with its weight applied: their sum is minimized, and each is logged.
Losses = dict[str, Tensor]

# Names of the other metrics of an epoch.
RESERVED = frozenset(PLAIN_METRICS)


class Objective(Protocol):
    """Computes the named losses of a student on a batch.

    The names are ``labels`` (loss on the labels), ``distillation`` (loss on the teacher's logits)
    and ``features`` (loss on feature maps), or a method's own. An objective may be an nn.Module:
    its parameters, such as projections, are trained along with the model.

    Optional attributes:
        phases: ends of its phases as fractions of the training, the last 1; the learning rate rises
            and falls once in each.
        on_epoch_start: called before each epoch with the best validation accuracy so far, 0 to 1.
        uses_teacher: False while the objective does not need its teacher.
    """

    def __call__(self, student: Forward, batch: Batch, progress: float, /) -> Losses:
        """Return the losses of `student` on `batch`.

        Args:
            student: images (B, 3, H, W) to logits (B, classes).
            progress: fraction of the training that is done, 0 to 1.
        """
        ...


def total_loss(losses: Losses) -> Tensor:
    """Return the sum of named losses, added in their order.

    Raises:
        UserError: a name is that of another metric.
    """
    if taken := RESERVED & losses.keys():
        raise UserError(f"a loss cannot be named {min(taken)!r}: an epoch has that metric already")
    return reduce(operator.add, losses.values())
