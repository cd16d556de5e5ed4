"""Importances rank channels by what they contribute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from compress.pruning import importance as importances
from compress.pruning.importance import Importance, score_units
from compress.pruning.pruner import prune
from compress.pruning.structure import Structure
from compress.recipe.registry import IMPORTANCES
from compress.runtime.errors import UserError

EXAMPLE = torch.zeros(1, 3, 6, 6)


def two_layers() -> nn.Sequential:
    """A network whose channel c contributes in proportion to c - 7; the first 8, nothing at all."""
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


@pytest.mark.parametrize("name", [name for name in IMPORTANCES.builtin if name != "random"])
def test_channels_that_contribute_nothing_score_lowest_and_go_first(name: str) -> None:
    model = two_layers()
    (scores,) = score_units(name, Structure(model, EXAMPLE), [loss_on_noise])
    assert scores.dtype == torch.float64
    assert len(scores) == 24
    assert bool((scores > 0).all())
    assert scores[:8].max() < scores[8:].min()
    # The gradient of the loss saturates: by it, only the order of the zeros is known.
    if name not in ("taylor", "hessian"):
        assert scores[8:].argsort().tolist() == list(range(16))
    budget = 16 * (27 + 2 + 5) + 5
    pruned = prune(model, EXAMPLE, budget, importance=name, losses=[loss_on_noise])
    images = torch.rand(4, 3, 6, 6)
    assert isinstance(pruned[0], nn.Conv2d)  # type: ignore[index]
    assert pruned[0].out_channels == 16  # type: ignore[index]
    torch.testing.assert_close(pruned(images), model(images))


def test_random_scores_follow_the_seed() -> None:
    structure = Structure(two_layers(), EXAMPLE)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(score_units("random", structure)[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_taylor_sums_the_gradients_of_all_batches() -> None:
    once, twice = (
        score_units("taylor", Structure(two_layers(), EXAMPLE), [loss_on_noise] * count)[0][8:]
        for count in (1, 2)
    )
    torch.testing.assert_close(twice, 2 * once)


def test_hessian_averages_the_squared_gradients_of_all_batches() -> None:
    """A channel's score is the sum of its squared weights times the Fisher information."""
    structure = Structure(two_layers(), EXAMPLE)
    losses = [lambda model, i=i: loss_on_noise(model) * (i + 1) for i in range(3)]
    (scores,) = score_units("hessian", structure, losses)
    twin = two_layers()
    parameters = list(twin.parameters())
    fisher = [torch.zeros_like(p) for p in parameters]
    for loss in losses:
        gradients = torch.autograd.grad(loss(twin), parameters)
        for total, gradient in zip(fisher, gradients, strict=True):
            total += gradient**2 / 3
    parts = [p.detach() ** 2 * f for p, f in zip(parameters, fisher, strict=True)]
    conv, scale, _, head, _ = parts
    expected = conv.sum((1, 2, 3)) + scale + head.sum(0)
    torch.testing.assert_close(scores[8:].float(), expected[8:], rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", IMPORTANCES.builtin)
def test_scores_of_a_network_of_zeros_are_positive_and_finite(name: str) -> None:
    model = two_layers()
    for parameter in model.parameters():
        parameter.data.zero_()
    (scores,) = score_units(name, Structure(model, EXAMPLE), [loss_on_noise])
    assert bool(torch.isfinite(scores).all())
    assert bool((scores > 0).all())


@pytest.mark.parametrize("name", IMPORTANCES.builtin)
def test_every_registered_name_is_an_importance(name: str) -> None:
    importance = IMPORTANCES.load(name)
    assert isinstance(importance, Importance)
    assert callable(importance.make_scorer())


def test_an_importance_that_is_added_to_the_registry_can_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    l1 = Importance(lambda: tp.importance.GroupMagnitudeImportance(p=1))
    monkeypatch.setattr(importances, "L1", l1, raising=False)
    monkeypatch.setitem(IMPORTANCES.builtin, "l1", "compress.pruning.importance:L1")  # type: ignore[arg-type]
    structure = Structure(two_layers(), EXAMPLE)
    (l1_scores,), (l2_scores,) = (score_units(name, structure) for name in ("l1", "magnitude"))
    assert l1_scores[8:].argsort().tolist() == list(range(16))
    assert not torch.allclose(l1_scores, l2_scores)


@pytest.mark.parametrize(
    ("name", "losses", "words"),
    [
        ("talyor", None, r"'talyor' .*'taylor'"),
        ("taylor", None, "needs data"),
        ("taylor", [], "no data"),
        ("hessian", [], "no data"),
        ("taylor", [lambda model: loss_on_noise(model) * float("nan")], "not finite"),
    ],
)
def test_an_importance_without_usable_data_is_refused(
    name: str, losses: list[importances.Loss] | None, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        prune(two_layers(), EXAMPLE, 500, importance=name, losses=losses)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    model = two_layers()
    model[5].weight.data[0, 0] = value
    with pytest.raises(UserError, match="not finite"):
        prune(model, EXAMPLE, 500)


def test_an_importance_that_finds_no_layer_to_score_is_refused() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)
    )
    with pytest.raises(UserError, match=r"'bn-scale'.*'magnitude'"):
        prune(model, EXAMPLE, 400, importance="bn-scale")
