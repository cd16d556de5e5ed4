"""Listening until the guide is outgrown: distillation stopped early, Cho and Hariharan 2019, arXiv:1910.01348."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from compress.data.batches import Batch
from compress.training.trainer import Objective


class Outgrown:
    """`guided` while it `listens`: until the student is as good as its guide; from the next epoch on `alone`.

    Args:
        accuracy: the guide's, on the validation split, 0 to 1.
    """

    def __init__(self, guided: Objective, alone: Objective, accuracy: float) -> None:
        self.guided, self.alone, self.accuracy = guided, alone, accuracy
        self.begin(0.0)

    def begin(self, best: float) -> None:
        """An epoch begins, before which the student's best validation accuracy was `best`, 0 to 1."""
        self.listens = best < self.accuracy

    def __call__(
        self, student: Callable[[Tensor], Tensor], batch: Batch, progress: float
    ) -> Tensor:
        """The loss of `student` on `batch`, a scalar; `progress` runs from 0 to 1 over the stage."""
        return (self.guided if self.listens else self.alone)(student, batch, progress)
