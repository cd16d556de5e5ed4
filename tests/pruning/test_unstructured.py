"""Pruning weight by weight: exactly the budget is left, and zeros stay zeros."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.models.cost import measure_cost, prunable_layers
from compress.pruning.unstructured import hold_zeros, least, prune_weights, release_zeros
from compress.runtime.errors import UserError


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()


WHOLE = sum(p.numel() for p in net().parameters())
WEIGHTS = 3 * 8 * 9 + 8 * 9 + 8 * 5


def left(model: nn.Module) -> int:
    zeros = sum(int((layer.weight == 0).sum()) for layer in prunable_layers(model))
    return sum(p.numel() for p in model.parameters()) - zeros


def loss(model: nn.Module) -> Tensor:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.cross_entropy(model(images), torch.arange(4))


@settings(deadline=None, max_examples=30)
@given(
    budget=st.integers(WHOLE - WEIGHTS + 3, WHOLE - 1),
    seed=st.integers(0, 9),
    name=st.sampled_from(["magnitude", "taylor"]),
)
def test_exactly_the_budget_is_left_by_torchinfos_count_too(
    budget: int, seed: int, name: str
) -> None:
    model = net(seed)
    kept = copy.deepcopy(model.state_dict())
    pruned = prune_weights(model, budget, importance=name, losses=[loss])
    assert left(pruned) == budget == measure_cost(pruned, (3, 8, 8), sparse=True).params
    assert measure_cost(pruned, (3, 8, 8)).params == WHOLE
    assert all(torch.equal(a, kept[key]) for key, a in model.state_dict().items())
    smaller = (budget + WHOLE - WEIGHTS + 3) // 2
    if smaller < budget:  # a second round takes what is left, not what is gone already
        again = prune_weights(pruned, smaller, importance=name, losses=[loss])
        assert left(again) == smaller
        for a, b in zip(prunable_layers(again), prunable_layers(pruned), strict=True):
            assert bool((a.weight[b.weight == 0] == 0).all())


def test_the_smallest_weights_of_the_whole_network_go() -> None:
    model = net()
    pruned = prune_weights(model, WHOLE - 100)
    sizes = torch.cat([layer.weight.detach().abs().flatten() for layer in prunable_layers(model)])
    gone = torch.cat([layer.weight.detach().flatten() == 0 for layer in prunable_layers(pruned)])
    assert sizes[gone].max() <= sizes[~gone].min()


def test_every_layer_keeps_its_best_weight() -> None:
    model = net()
    model[3].weight.data /= 1000  # type: ignore[index,union-attr,operator]
    pruned = prune_weights(model, least(model))
    for a, b in zip(prunable_layers(pruned), prunable_layers(model), strict=True):
        assert a.weight.count_nonzero() == 1 and a.weight.abs().max() == b.weight.abs().max()
    model[3].weight.data.zero_()  # type: ignore[index,union-attr,operator]
    assert left(prune_weights(model, least(model))) == least(model)  # such a layer has none to keep


def test_zeros_stay_zeros_while_the_rest_learns() -> None:
    model = prune_weights(net(), WHOLE - 150)
    before = copy.deepcopy(model)
    hold_zeros(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        loss(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    release_zeros(model)
    assert model.state_dict().keys() == before.state_dict().keys() and left(model) == WHOLE - 150
    for a, b in zip(prunable_layers(model), prunable_layers(before), strict=True):
        assert torch.equal(a.weight == 0, b.weight == 0) and not torch.equal(a.weight, b.weight)


def test_what_cannot_be_done_is_one_line() -> None:
    lowest = least(net())
    assert left(prune_weights(net(), lowest)) == lowest
    with pytest.raises(
        UserError, match=re.escape(f"the least for this network, by weights, is {lowest:,}")
    ):
        prune_weights(net(), lowest - 1)
    with pytest.raises(UserError, match="nothing to prune"):
        prune_weights(net(), WHOLE)
    with pytest.raises(UserError, match="'lamp' ranks channels"):
        prune_weights(net(), WHOLE - 1, importance="lamp")
    with pytest.raises(UserError, match="needs data"):
        prune_weights(net(), WHOLE - 1, importance="taylor")
    broken = net()
    broken[0].weight.data[0] = float("nan")  # type: ignore[index,union-attr]
    with pytest.raises(UserError, match="not finite"):
        prune_weights(broken, WHOLE - 1)
