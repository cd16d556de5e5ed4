"""Allocation: the channels with the lowest score per cost go, and the budget is used up."""

from __future__ import annotations

import copy

import pytest
import torch
from pruning_networks import (
    build_network,
    count_independently,
    list_out_channels,
    prune_and_check,
)
from torch import Tensor, nn

from compress.pruning.allocate import (
    COMFORTABLE_UNITS,
    MIN_UNITS,
    TARGET_USAGE,
    allocate,
    choose_floors,
    find_smallest_step,
)
from compress.pruning.importance import score_units
from compress.pruning.pruner import prune
from compress.pruning.structure import Structure
from compress.recipe.budget import Cost, Limits
from compress.runtime.errors import UserError

IMAGE_SIZE, CLASSES = 16, 7


class Branches(nn.Module):
    """Parallel convolutions, joined in the head. By bn-scale, all of their channels score alike."""

    def __init__(self, *convs: nn.Conv2d) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels)) for conv in convs
        )
        self.head = nn.Linear(sum(conv.out_channels for conv in convs), CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        means = [branch(images).mean((2, 3)) for branch in self.branches]
        return self.head(torch.cat(means, 1))  # type: ignore[no-any-return]


def branch(width: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(3, width, kernel_size, stride, bias=False)


def params_of(kernel_size: int, channels: int) -> int:
    """Return the parameters that `channels` of a branch have: in convolution, norm and head."""
    return channels * (3 * kernel_size**2 + 2 + CLASSES)


def prune_branches(model: nn.Module, budget: int | None = None, **options: object) -> list[int]:
    """Prune to `budget` parameters and return the widths of the branches."""
    example = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    pruned = prune(model.eval(), example, budget, importance="bn-scale", **options)  # type: ignore[arg-type]
    return list_out_channels(pruned)


def test_of_channels_that_score_alike_the_expensive_ones_go_first() -> None:
    budget = CLASSES + params_of(1, 32) + params_of(5, 16)
    assert prune_branches(Branches(branch(32, 1), branch(32, 5)), budget) == [32, 16]
    assert prune_branches(Branches(branch(32, 5), branch(32, 1)), budget) == [16, 32]


def test_the_cost_of_a_channel_depends_on_the_budget() -> None:
    # The first branch has few weights that are used often, the second many that are used seldom.
    model = Branches(branch(32, 3), branch(32, 5, stride=4))
    assert prune_branches(model, CLASSES + params_of(3, 32) + params_of(5, 24)) == [32, 24]
    macs = count_independently(model, IMAGE_SIZE)[1]
    fine, coarse = prune_branches(model, macs=int(0.6 * macs))
    assert fine < 24 < coarse


def test_a_layer_narrowed_before_is_spared_if_the_original_is_given() -> None:
    original = Branches(branch(32, 3), branch(32, 3))
    budget = CLASSES + params_of(3, 16 + 24)
    for widths in ([16, 32], [32, 16]):
        model = Branches(*(branch(width, 3) for width in widths))
        spared = prune_branches(model, budget, original=original)
        assert spared == [min(width, 24) for width in widths]
        assert min(prune_branches(model, budget)) < 16


@pytest.mark.parametrize("seed", range(3))
def test_widths_are_multiples_of_round_to_where_the_budget_allows(seed: int) -> None:
    model = Branches(*(branch(32, 3) for _ in range(3)))
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    for channels in (80, 56, 40):
        widths = prune_branches(model, CLASSES + params_of(3, channels), round_to=8)
        assert sum(widths) == channels
        assert all(width % 8 == 0 for width in widths)
    assert any(width % 8 for width in prune_branches(model, CLASSES + params_of(3, 56)))


@pytest.mark.slow
def test_a_narrow_network_lands_on_every_budget_by_exchanging_channels() -> None:
    """A single channel of this network is more than one per cent of most of these budgets."""
    example = torch.zeros(1, 3, 28, 28)
    model = prune(build_network("resnet18", "small"), example, 10_000)
    structure = Structure(copy.deepcopy(model), example)
    scores = score_units("magnitude", structure)
    unit_counts = structure.unit_counts()
    floors = [MIN_UNITS] * len(unit_counts)
    for params in range(5_000, 9_000, 100):
        for round_to in (1, 8):
            limits = Limits(params)
            kept = allocate(structure, scores, limits, floors, unit_counts, round_to)
            assert TARGET_USAGE <= limits.usage(structure.predict_cost(kept)) <= 1
            for floor, keep, units in zip(floors, kept, unit_counts, strict=True):
                assert floor <= keep <= units
    prune_and_check(model, 28, 7_777)


def make_structure(*widths: int) -> Structure:
    model = Branches(*(branch(width, 3) for width in widths))
    return Structure(model, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))


def params_limit(channels: int) -> Limits:
    return Limits(params=CLASSES + params_of(3, channels))


def test_floors_are_as_high_as_half_of_the_budget_allows() -> None:
    structure = make_structure(32, 32)
    assert choose_floors(structure, params_limit(64)) == [COMFORTABLE_UNITS] * 2
    assert choose_floors(structure, params_limit(26)) == [6, 6]
    assert choose_floors(structure, params_limit(8)) == [MIN_UNITS] * 2
    with pytest.raises(UserError, match=f"minimum .* {CLASSES + params_of(3, 8):,} parameters"):
        choose_floors(structure, params_limit(7))


def test_a_group_narrower_than_the_floor_keeps_all_of_its_units() -> None:
    structure = make_structure(2, 32)
    floors = choose_floors(structure, params_limit(30))
    names = [group.name for group in structure.groups]
    assert dict(zip(names, floors, strict=True)) == {
        "branches.0.0": 2,
        "branches.1.0": COMFORTABLE_UNITS,
    }


def test_the_smallest_step_is_the_cheapest_unit_that_was_removed() -> None:
    model = Branches(branch(32, 1), branch(32, 5))
    structure = Structure(model, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE))

    names = [group.name for group in structure.groups]
    first, second = names.index("branches.0.0"), names.index("branches.1.0")
    for removed, kernel_size in (({first, second}, 1), ({first}, 1), ({second}, 5)):
        kept = [32 - (i in removed) for i in range(2)]
        step = find_smallest_step(structure, kept, Limits(params=1))
        assert isinstance(step, Cost)
        assert step.params == params_of(kernel_size, 1)
    assert find_smallest_step(structure, [32, 32], Limits(params=1)) is None


def test_where_units_are_many_channels_single_ones_may_be_left() -> None:
    """A unit of 64 channels in 32 groups is 32 channels."""

    def block(inputs: int, outputs: int) -> nn.Sequential:
        norm = nn.GroupNorm(32, outputs)
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, bias=False), norm, nn.ReLU())

    model = nn.Sequential(block(3, 64), block(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(64, CLASSES))
    pruned = prune(model, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE), "30%")
    assert list_out_channels(pruned) == [32, 32]
    with pytest.raises(UserError, match="minimum"):
        prune(model, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE), "10%")


def test_a_refusal_names_what_makes_computed_weights_plain() -> None:
    model = Branches(branch(32, 3), nn.utils.parametrizations.weight_norm(branch(32, 3)))
    with pytest.raises(UserError, match=r"minimum .* cannot be cut; .*remove_parametrizations"):
        prune(model, torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE), "10%")


def test_a_network_that_squeezes_one_image_away_is_refused_with_the_remedy() -> None:
    class Squeezes(Branches):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).squeeze()

    with pytest.raises(UserError, match=r"flatten\(1\) instead of squeeze\(\)"):
        prune(Squeezes(branch(32, 3)), torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE), "50%")
