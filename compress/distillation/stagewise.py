"""Block by block, the rest frozen, last of all the classifier: Kulkarni et al. 2019, arXiv:1911.06786."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.features import Tapped, map_loss, projections
from compress.runtime.errors import UserError
from compress.training.trainer import Forward, Objective, phase


def blocks(student: Tapped) -> list[set[nn.Parameter]]:
    """The parameters up to the first tap, from there to the next, and so on; after the last tap, the classifier.

    A parameter lies before a tap if the tap's map depends on it.

    Raises:
        UserError: there is nothing to train between two taps, or behind the last.
    """
    parameters = [p for p in student.network.parameters() if p.requires_grad]
    student.network.eval()
    _, maps = student.look(student.example[:1])
    found: list[set[nn.Parameter]] = []
    for path, image in zip(student.paths, maps, strict=True):
        gradients = torch.autograd.grad(
            image.sum(), parameters, retain_graph=True, allow_unused=True
        )
        reached = {
            p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None
        }
        found.append(reached.difference(*found))
        if not found[-1]:
            raise UserError(
                f"taps: there is nothing to train between {path!r} and what is tapped before it"
            )
    if not (classifier := set(parameters).difference(*found)):
        raise UserError(f"taps: there is no classifier to train behind {student.paths[-1]!r}")
    return [*found, classifier]


@contextmanager
def only(network: nn.Module, learning: set[nn.Parameter]) -> Iterator[None]:
    """For a forward pass in which nothing but `learning` is to learn: the rest gets no gradients, which the optimizer
    passes over, and its batch norms are in evaluation mode. Afterwards all is as before."""
    frozen = [p for p in network.parameters() if p.requires_grad and p not in learning]
    resting = [
        module
        for module in network.modules()
        if module.training
        and (own := list(module.parameters(recurse=False)))
        and learning.isdisjoint(own)
    ]
    try:
        for parameter in frozen:
            parameter.requires_grad = False
        for module in resting:
            module.training = False
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad = True
        for module in resting:
            module.training = True


class Stagewise(nn.Module):
    """One phase for each block, on beta · `map_loss`; then one for the classifier, on `base`.

    The phases share the stage evenly. Where widths differ, a block's maps go through a 1×1 convolution that learns
    with the block.

    Args:
        base: the loss of the student's answers.
        beta: 1 in the paper.
    """

    def __init__(self, teacher: Tapped, student: Tapped, base: Objective, beta: float) -> None:
        super().__init__()
        self.teacher, self.student, self.base, self.beta = teacher, student, base, beta
        self.projections = projections(student.measure(), teacher.measure())
        self.blocks = blocks(student)
        self.phases = tuple((place + 1) / len(self.blocks) for place in range(len(self.blocks)))

    def forward(self, student: Forward, batch: Batch, progress: float) -> Tensor:
        """The loss of `student` on `batch`, a scalar; `progress` runs from 0 to 1 over the stage."""
        place, within = phase(progress, self.phases)
        with only(self.student.network, self.blocks[place]):
            logits, maps = self.student.look(batch.images, student)
        if place == len(maps):
            return self.base(lambda _: logits, batch, within)
        _, guides = self.teacher.look(batch.images)
        return self.beta * map_loss(self.projections[place](maps[place]), guides[place])
