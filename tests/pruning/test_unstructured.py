"""Pruning of single weights: exactly the budget is left, and zeros stay zero."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.models.cost import measure_cost, prunable_layers
from compress.pruning.unstructured import (
    count_min_params,
    hold_zeros,
    prune_weights,
    release_zeros,
)
from compress.runtime.errors import UserError


def make_model(seed: int = 0) -> nn.Sequential:
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


TOTAL = sum(p.numel() for p in make_model().parameters())
WEIGHTS = 3 * 8 * 9 + 8 * 9 + 8 * 5
MINIMUM = TOTAL - WEIGHTS + 3


def count_left(model: nn.Module) -> int:
    zeros = sum(int((layer.weight == 0).sum()) for layer in prunable_layers(model))
    return sum(p.numel() for p in model.parameters()) - zeros


def loss_on_noise(model: nn.Module) -> Tensor:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.cross_entropy(model(images), torch.arange(4))


@settings(deadline=None, max_examples=30)
@given(
    budget=st.integers(MINIMUM, TOTAL - 1),
    seed=st.integers(0, 9),
    importance=st.sampled_from(["magnitude", "taylor"]),
)
def test_exactly_the_budget_is_left(budget: int, seed: int, importance: str) -> None:
    model = make_model(seed)
    before = copy.deepcopy(model.state_dict())
    pruned = prune_weights(model, budget, importance=importance, losses=[loss_on_noise])
    assert count_left(pruned) == budget
    assert measure_cost(pruned, (3, 8, 8), sparse=True).params == budget
    assert measure_cost(pruned, (3, 8, 8)).params == TOTAL
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    # A second round adds zeros to those of the first.
    smaller = (budget + MINIMUM) // 2
    if smaller < budget:
        again = prune_weights(pruned, smaller, importance=importance, losses=[loss_on_noise])
        assert count_left(again) == smaller
        for a, b in zip(prunable_layers(again), prunable_layers(pruned), strict=True):
            assert bool((a.weight[b.weight == 0] == 0).all())


def test_the_smallest_weights_of_the_whole_network_become_zero() -> None:
    model = make_model()
    pruned = prune_weights(model, TOTAL - 100)
    sizes = torch.cat([layer.weight.detach().abs().flatten() for layer in prunable_layers(model)])
    zero = torch.cat([layer.weight.detach().flatten() == 0 for layer in prunable_layers(pruned)])
    assert int(zero.sum()) == 100
    assert sizes[zero].max() <= sizes[~zero].min()


def test_taylor_scores_by_weight_times_gradient() -> None:
    model = make_model()
    pruned = prune_weights(model, TOTAL - 100, importance="taylor", losses=[loss_on_noise])
    weights = [layer.weight for layer in prunable_layers(model)]
    gradients = torch.autograd.grad(loss_on_noise(model), weights)
    scores = torch.cat(
        [(w * g).detach().abs().flatten() for w, g in zip(weights, gradients, strict=True)]
    )
    zero = torch.cat([layer.weight.detach().flatten() == 0 for layer in prunable_layers(pruned)])
    assert scores[zero].max() <= scores[~zero].min()


def test_every_layer_keeps_its_best_weight() -> None:
    model = make_model()
    model[3].weight.data /= 1000
    pruned = prune_weights(model, count_min_params(model))
    for a, b in zip(prunable_layers(pruned), prunable_layers(model), strict=True):
        assert a.weight.count_nonzero() == 1
        assert a.weight.abs().max() == b.weight.abs().max()
    # A layer of zeros has no weight to keep.
    model[3].weight.data.zero_()
    minimum = count_min_params(model)
    assert count_left(prune_weights(model, minimum)) == minimum


def test_zeros_stay_zero_while_the_other_weights_are_trained() -> None:
    model = prune_weights(make_model(), TOTAL - 150)
    before = copy.deepcopy(model)
    hold_zeros(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        loss_on_noise(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    release_zeros(model)
    assert model.state_dict().keys() == before.state_dict().keys()
    assert count_left(model) == TOTAL - 150
    for a, b in zip(prunable_layers(model), prunable_layers(before), strict=True):
        assert torch.equal(a.weight == 0, b.weight == 0)
        assert not torch.equal(a.weight, b.weight)


def test_the_minimum_named_in_the_message_is_within_reach() -> None:
    assert count_min_params(make_model()) == MINIMUM
    with pytest.raises(UserError, match=f"out of reach.* {MINIMUM:,}$"):
        prune_weights(make_model(), MINIMUM - 1)
    assert count_left(prune_weights(make_model(), MINIMUM)) == MINIMUM


@pytest.mark.parametrize(
    ("budget", "importance", "words"),
    [
        (TOTAL, "magnitude", "nothing to prune"),
        (TOTAL - 1, "lamp", "'lamp'.*magnitude or taylor"),
        (TOTAL - 1, "taylor", "needs data"),
    ],
)
def test_budgets_and_importances_that_do_not_fit_are_refused(
    budget: int, importance: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        prune_weights(make_model(), budget, importance=importance)


def test_a_sparse_model_within_the_budget_is_refused() -> None:
    pruned = prune_weights(make_model(), TOTAL - 100)
    with pytest.raises(UserError, match="nothing to prune"):
        prune_weights(pruned, TOTAL - 100)


def test_weights_that_are_not_finite_are_refused() -> None:
    model = make_model()
    model[0].weight.data[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        prune_weights(model, TOTAL - 1)
