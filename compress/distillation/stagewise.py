"""Block by block, then the classifier: Kulkarni et al. 2019, arXiv:1911.06786."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compress.data.batches import Batch
from compress.distillation.features import Tapped, make_projections, map_loss
from compress.distillation.method import FeatureInputs, Method
from compress.runtime.errors import UserError
from compress.training.objective import Forward, Losses
from compress.training.schedule import find_phase


def split_blocks(student: Tapped) -> list[set[nn.Parameter]]:
    """Split the student's parameters into one set for each tap, and one for the classifier.

    A set holds the parameters between the tap before and its own. A parameter belongs before a tap
    if the tap's feature map depends on it.

    Raises:
        UserError: there is nothing to train between two taps, or behind the last.
    """
    parameters = [p for p in student.network.parameters() if p.requires_grad]
    student.network.eval()
    _, maps = student.run(student.example[:1])
    found: list[set[nn.Parameter]] = []
    for path, feature_map in zip(student.paths, maps, strict=True):
        gradients = torch.autograd.grad(
            feature_map.sum(), parameters, retain_graph=True, allow_unused=True
        )
        reached = {
            p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None
        }
        found.append(reached.difference(*found))
        if not found[-1]:
            raise UserError(
                f"taps: there is nothing to train between {path!r} and the tap before it"
            )
    if not (classifier := set(parameters).difference(*found)):
        raise UserError(f"taps: there is no classifier to train behind {student.paths[-1]!r}")
    return [*found, classifier]


@contextmanager
def train_only(network: nn.Module, trained: set[nn.Parameter]) -> Iterator[None]:
    """Freeze all parameters but `trained` for a forward pass.

    The others get no gradients, so the optimizer skips them; their batch norms are in evaluation
    mode.
    """
    frozen = [p for p in network.parameters() if p.requires_grad and p not in trained]
    resting = [
        module
        for module in network.modules()
        if module.training
        and (own := list(module.parameters(recurse=False)))
        and trained.isdisjoint(own)
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
    """One phase for each block, on beta · `map_loss`; then one for the classifier, on the base.

    The phases share the stage evenly. Where widths differ, a block's maps go through a 1×1
    convolution that is trained with the block.
    """

    def __init__(self, inputs: FeatureInputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.projections = make_projections(inputs.student.measure(), inputs.teacher.measure())
        self.blocks = split_blocks(inputs.student)
        self.phases = tuple((place + 1) / len(self.blocks) for place in range(len(self.blocks)))

    def forward(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        inputs, (phase, within) = self.inputs, find_phase(progress, self.phases)
        with train_only(inputs.student.network, self.blocks[phase]):
            logits, maps = inputs.student.run(batch.images, student)
        if phase == len(maps):
            return inputs.base(lambda _: logits, batch, within)
        _, targets = inputs.teacher.run(batch.images)
        loss = map_loss(self.projections[phase](maps[phase]), targets[phase])
        return {"features": inputs.beta * loss}


# Beta is the paper's.
METHOD = Method(beta=1.0, on_features=Stagewise)
