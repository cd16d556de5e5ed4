"""What every stage works with: the recipe, the data, the device, its guide, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from compress.data.batches import Batch, plain_batches, training_batches
from compress.data.dataset import Dataset
from compress.models.checkpoint import Checkpoint
from compress.recipe.budget import Limits
from compress.recipe.schema import Augment, Recipe, Stage
from compress.runtime import distributed
from compress.training.events import Events
from compress.training.trainer import accuracy

Rehearsal = Callable[
    [Events, Path], object
]  # trains a copy until the events ends it; its files go into the folder
Rehearsals = Callable[[bool], Rehearsal]  # by a yes or no, as `fit` and `pays` ask


@dataclass(frozen=True)
class Given:
    """In the place of a `teach` or a `distill` stage: a network that is trained already, from `file`."""

    checkpoint: Checkpoint
    file: str
    kind: Literal["teach", "distill"]

    @property
    def role(self) -> Literal["teacher", "student"]:
        """Whose place it takes."""
        return "teacher" if self.kind == "teach" else "student"

    @property
    def size(self) -> int:
        """The side of the images that it was trained on, in pixels."""
        return self.checkpoint.input_size[-1]


@dataclass(frozen=True)
class Guide:
    """The network that a training stage listens to.

    Args:
        size: the side of the images that `model` was made for, in pixels.
        val: its validation accuracy, 0 to 1; at 1 it is never outgrown.
    """

    model: nn.Module
    size: int
    val: float = 1.0


@dataclass(frozen=True)
class StageContext:
    """What every stage works with.

    Args:
        guide: whom a training stage listens to, if there is anyone.
        target: what this round of pruning aims at, for a prune stage.
        uncut: for a prune stage, the student as it was before the first: layers are kept in proportion to its widths.
        room: for the last of them, the bytes that the run's file would have left with a model, if it has a budget.
        sparse: whether the model is pruned weight by weight, now or before.
        final: side of the images that the pipeline's result is made for, in pixels: multiply-adds are counted there.
        state: the file in which a training stage keeps what it needs to go on after a kill.
        answers: the folder for the kept answers of teachers.
        fit: how many epochs a training stage gets, from rehearsals (its guide answers; its answers are kept), the steps
            of an epoch, and after how many epochs all answers are kept; if None, as many as the recipe says.
        pays: whether to compile, from rehearsals (plain, compiled) and the steps in all, where the recipe leaves that
            open; if None, no.
    """

    recipe: Recipe
    data: Dataset
    device: torch.device
    events: Events
    state: Path
    answers: Path
    guide: Guide | None = None
    target: Limits | None = None
    uncut: nn.Module | None = None
    room: Callable[[nn.Module], int] | None = None
    sparse: bool = False
    final: int = 0
    fit: Callable[[Rehearsals, int, float], float] | None = None
    pays: Callable[[Rehearsals, float], bool] | None = None

    def validate(self, model: nn.Module, size: int) -> float:
        """Top-1 accuracy of `model` on the validation split, at `size` pixels, 0 to 1."""
        batches = plain_batches(self.data, self.data.val, batch=500, part=distributed.shard())
        return accuracy(model, batches, size=size, exact=False)


def side(stage: Stage | Given, data: Dataset) -> int:
    """The side of the images that a stage's model is made for, in pixels."""
    return stage.size if isinstance(stage, Given) else max(1, round(data.size * stage.scale))


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` on `device`, laid out channels last as convolutions are fastest."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return model.to(device)


def sample(ctx: StageContext, samples: int, size: int) -> Iterator[Batch]:
    """The first `samples` training images of a view that no epoch sees, lightly augmented, `size` at a time."""
    augment = Augment(crop=None, flip=ctx.data.mirrors)
    size = min(size, samples)
    batches = training_batches(ctx.data, augment, seed=ctx.recipe.seed, view=2**31, batch=size)
    for _, batch in zip(range(max(samples // size, 1)), batches, strict=False):
        yield batch
