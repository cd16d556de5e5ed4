"""Mirroring: does a network that never saw mirror images tell from them what they show?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compress.data.batches import Batch
from compress.runtime import distributed
from compress.training.forward import make_forward
from compress.training.task import Task

# Standard errors by which a difference is taken for real.
SIGNIFICANT = 2.0
# Fraction of what the network knows that mirror images may hide without being other images.
HARMLESS = 0.1
# Fraction of what there is to know that a network must know to be asked: one that tells images
# apart by little more than their colours finds all mirror images easy.
ENOUGH = 0.5


@dataclass(frozen=True)
class MirrorTest:
    """The result of `measure_mirroring`.

    Args:
        images: number of images.
        plain, mirrored: top-1 accuracy on the images and on their mirror images, 0 to 1.
        gap: mean difference of the losses on mirror images and on images, in nats.
        error: standard error of `gap`.
        known: what the network knows of the images, in nats: its loss subtracted from `entropy`.
        entropy: what there is to know, in nats: the loss of naming the classes' frequencies.
    """

    images: int
    plain: float
    mirrored: float
    gap: float
    error: float
    known: float
    entropy: float

    @property
    def mirrors(self) -> bool | None:
        """True if mirror images show the same, False if not, None if that cannot be told yet.

        Few images, or a network that knows little, tell nothing.
        """
        if self.known < ENOUGH * self.entropy:
            return None
        margin = SIGNIFICANT * self.error
        if self.gap + margin < HARMLESS * self.known:
            return True
        return False if self.gap > margin else None


@torch.inference_mode()
def measure_mirroring(
    model: nn.Module,
    batches: Iterable[Batch],
    task: Task,
    *,
    image_size: int | None = None,
) -> MirrorTest:
    """Compare a network on images and on their mirror images.

    A network that was trained without mirror images finds those of photos as easy as the photos
    themselves. It does not know those of letters, digits and signs.

    In a distributed run each process gets its shard of the batches.
    """
    forward = make_forward(model.eval(), image_size)
    classes = torch.zeros(task.classes, dtype=torch.float64)
    sums = torch.zeros(5, dtype=torch.float64)
    for batch in batches:
        targets = task.class_numbers(batch.targets)
        answers = [forward(images) for images in (batch.images, batch.images.flip(3))]
        plain, mirrored = (F.cross_entropy(a, targets, reduction="none") for a in answers)
        gaps = (mirrored - plain).double()
        right = [(task.predict(answer) == targets).sum() for answer in answers]
        sums += torch.stack([*right, gaps.sum(), gaps.square().sum(), plain.sum()]).double().cpu()
        classes += torch.bincount(targets, minlength=task.classes).cpu()
    sums, classes = distributed.all_reduce_sum(sums), distributed.all_reduce_sum(classes)
    images, (plain_right, mirrored_right, total, squares, loss) = int(classes.sum()), sums.tolist()
    mean = total / images
    entropy = float(torch.special.entr(classes / images).sum())
    return MirrorTest(
        images,
        plain_right / images,
        mirrored_right / images,
        mean,
        math.sqrt(max(squares / images - mean**2, 0) / images),
        entropy - loss / images,
        entropy,
    )
