"""Which channels go: those that are worth least for what they cost, for this budget and at these widths."""

from __future__ import annotations

import pytest
import torch
from networks import torchinfos
from torch import Tensor, nn

from compress.pruning.pruner import prune

SIDE, CLASSES = 16, 7


class Branches(nn.Module):
    """Convolutions side by side, joined in the head. By the scales of their norms, all channels are worth the same."""

    def __init__(self, *convs: nn.Conv2d) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels)) for conv in convs
        )
        self.head = nn.Linear(sum(conv.out_channels for conv in convs), CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        means = [branch(images).mean((2, 3)) for branch in self.branches]
        return self.head(torch.cat(means, 1))  # type: ignore[no-any-return]


def branch(width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(3, width, kernel, stride, bias=False)


def of(kernel: int, channels: int) -> int:
    """The parameters of so many channels of a branch: the convolution's, the norm's and the head's."""
    return channels * (3 * kernel**2 + 2 + CLASSES)


def left(model: nn.Module, budget: int | None = None, **options: object) -> list[int]:
    """The widths of the branches, pruned to so many parameters."""
    example = torch.zeros(1, 3, SIDE, SIDE)
    pruned = prune(model.eval(), example, budget, importance="bn-scale", **options)  # type: ignore[arg-type]
    return [module.out_channels for module in pruned.modules() if isinstance(module, nn.Conv2d)]


def test_of_channels_worth_the_same_the_dearer_go_first() -> None:
    assert left(Branches(branch(32, 1), branch(32, 5)), CLASSES + of(1, 32) + of(5, 16)) == [32, 16]
    assert left(Branches(branch(32, 5), branch(32, 1)), CLASSES + of(1, 32) + of(5, 16)) == [16, 32]


def test_what_is_dear_depends_on_the_budget() -> None:
    model = Branches(
        branch(32, 3), branch(32, 5, stride=4)
    )  # few weights used often, many used seldom
    assert left(model, CLASSES + of(3, 32) + of(5, 24)) == [32, 24]
    fine, coarse = left(model, macs=int(0.6 * torchinfos(model, SIDE)[1]))
    assert fine < 24 < coarse


def test_a_layer_that_is_narrowed_already_is_spared_in_the_next_round() -> None:
    budget, whole = CLASSES + of(3, 16 + 24), Branches(branch(32, 3), branch(32, 3))
    for widths in ([16, 32], [32, 16]):
        model = Branches(*(branch(width, 3) for width in widths))
        assert left(model, budget, whole=whole) == [min(width, 24) for width in widths]
        assert min(left(model, budget)) < 16  # without the network as it was, the two shrink alike


@pytest.mark.parametrize("seed", range(3))
def test_widths_are_multiples_where_the_budget_can_be_met_so(seed: int) -> None:
    model = Branches(*(branch(32, 3) for _ in range(3)))
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    for channels in (80, 56, 40):
        widths = left(model, CLASSES + of(3, channels), round_to=8)
        assert sum(widths) == channels and all(width % 8 == 0 for width in widths)
    assert any(width % 8 for width in left(model, CLASSES + of(3, 56)))
