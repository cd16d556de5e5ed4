"""Importances: which channels matter."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.pruning.importance import IMPORTANCES, worths
from compress.pruning.pruner import prune
from compress.pruning.structure import Structure
from compress.recipe.registry import ImportanceName
from compress.runtime.errors import UserError


def two_layers() -> nn.Sequential:
    """Channel c of the first layer is worth c (and the first 8, nothing at all) by every measure."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    conv, norm, head = model[0], model[1], model[5]
    scale = torch.arange(24.0).sub(7).clamp_min(0)
    conv.weight.data = torch.ones_like(conv.weight) * scale.sqrt()[:, None, None, None]
    norm.weight.data, norm.bias.data = scale.clone(), torch.zeros(24)
    head.weight.data = torch.randn(5, 1).expand(5, 24) * scale
    return model.eval()


def loss_on_noise(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 3, 6, 6, generator=generator)
    return F.cross_entropy(model(images), torch.arange(8) % 5)


@pytest.mark.parametrize("name", [name for name in IMPORTANCES if name != "random"])
def test_an_importance_ranks_channels_as_they_matter(name: str) -> None:
    model = two_layers()
    structure = Structure(model, torch.zeros(1, 3, 6, 6))
    (worth,) = worths(name, model, structure, [loss_on_noise])
    assert worth.dtype == torch.float64 and len(worth) == 24 and bool((worth > 0).all())
    assert worth[:8].max() < worth[8:].min()
    if name not in (
        "taylor",
        "hessian",
    ):  # the gradient of the loss saturates, its order is known only for the zeros
        assert worth[8:].argsort().tolist() == list(range(16))
    pruned = prune(
        model,
        torch.zeros(1, 3, 6, 6),
        16 * (27 + 2 + 5) + 5,
        importance=name,
        losses=[loss_on_noise],
    )
    images = torch.rand(4, 3, 6, 6)
    assert isinstance(pruned[0], nn.Conv2d) and pruned[0].out_channels == 16
    torch.testing.assert_close(pruned(images), model(images))


def test_an_importance_that_looks_at_nothing_there_is_refused() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)
    )
    with pytest.raises(UserError, match="'bn-scale' has nothing to rank by in this network"):
        prune(model, torch.zeros(1, 3, 6, 6), 400, importance="bn-scale")


def test_random_importance_follows_the_seed() -> None:
    structure = Structure(two_layers(), torch.zeros(1, 3, 6, 6))
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(worths("random", structure.model, structure)[0])
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_gradients_of_several_batches_add_up() -> None:
    found = []
    for losses in ([loss_on_noise], [loss_on_noise, loss_on_noise]):
        structure = Structure(two_layers(), torch.zeros(1, 3, 6, 6))
        found.append(worths("taylor", structure.model, structure, losses)[0][8:])
    torch.testing.assert_close(found[1], 2 * found[0])


def test_squares_of_gradients_are_averaged() -> None:
    """Optimal brain damage, written out: half of what a channel's weights, squared, meet of the Fisher information."""
    structure = Structure(two_layers(), torch.zeros(1, 3, 6, 6))
    losses = [lambda model, i=i: loss_on_noise(model) * (i + 1) for i in range(3)]
    (worth,) = worths("hessian", structure.model, structure, losses)
    twin = two_layers()
    fisher = [torch.zeros_like(p) for p in twin.parameters()]
    for loss in losses:
        for sum_of, gradient in zip(
            fisher, torch.autograd.grad(loss(twin), list(twin.parameters())), strict=True
        ):
            sum_of += gradient**2 / 3
    parts = [p.detach() ** 2 * f for p, f in zip(twin.parameters(), fisher, strict=True)]
    conv, scale, _, head, _ = parts
    expected = conv.sum((1, 2, 3)) + scale + head.sum(0)
    torch.testing.assert_close(worth[8:].float(), expected[8:], rtol=1e-3, atol=0)


def test_a_layer_of_zeros_is_worth_next_to_nothing_rather_than_nan() -> None:
    model = two_layers()
    for parameter in model.parameters():
        parameter.data.zero_()
    for name in IMPORTANCES:
        structure = Structure(model, torch.zeros(1, 3, 6, 6))
        (worth,) = worths(name, model, structure, [loss_on_noise])
        assert bool(torch.isfinite(worth).all()) and bool((worth > 0).all())


def test_there_is_one_for_every_name() -> None:
    assert set(IMPORTANCES) == set(get_args(ImportanceName))


def test_importances_refuse_what_they_cannot_rank_by() -> None:
    example = torch.zeros(1, 3, 6, 6)
    with pytest.raises(UserError, match=r"unknown importance 'talyor' \(did you mean 'taylor'\?\)"):
        prune(two_layers(), example, 500, importance="talyor")
    with pytest.raises(UserError, match="needs data"):
        prune(two_layers(), example, 500, importance="taylor")
    with pytest.raises(UserError, match="no gradients to rank by"):
        prune(two_layers(), example, 500, importance="taylor", losses=[])
    with pytest.raises(UserError, match="no gradients to rank by"):
        prune(
            two_layers(),
            example,
            500,
            importance="taylor",
            losses=[lambda model: loss_on_noise(model) * float("nan")],
        )
    for value in (float("nan"), float("inf")):
        broken = two_layers()
        broken[5].weight.data[0, 0] = value
        with pytest.raises(UserError, match="not finite"):
            prune(broken, example, 500)
