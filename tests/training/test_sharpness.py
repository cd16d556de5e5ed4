"""Sharpness-aware minimization: where it takes the gradient, and that it moves nothing itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.training.sharpness import highest_nearby


def make_weights(seed: int, layers: int) -> list[Tensor]:
    """Draw layers of weights, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(3, 2 + i, generator=generator) for i in range(layers)]
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)
    return weights


def flatten(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.floats(0.01, 4))
def test_the_point_is_the_highest_of_its_ellipsoid(seed: int, layers: int, radius: float) -> None:
    weights = make_weights(seed, layers)
    here = [weight.clone() for weight in weights]
    gradient = flatten([weight.grad for weight in weights if weight.grad is not None])
    with highest_nearby(weights, radius):
        move = flatten(weights) - flatten(here)
    # On the ellipsoid whose axes are the weights.
    axes = flatten(here).abs()
    assert (move / axes).norm() == pytest.approx(radius, rel=1e-3)
    # To the first order, no other point of it is higher.
    others = torch.randn(1000, len(axes), generator=torch.Generator().manual_seed(seed))
    others = radius * others / others.norm(dim=1, keepdim=True) * axes
    assert (others @ gradient).max() <= move @ gradient * (1 + 1e-4)
    # Exactly where they were: no rounding is left behind.
    assert all(map(torch.equal, weights, here))


def test_weights_come_back_even_if_the_step_fails() -> None:
    weights = make_weights(0, 2)
    here = [weight.clone() for weight in weights]
    with pytest.raises(KeyboardInterrupt), highest_nearby(weights, 1.0):
        raise KeyboardInterrupt
    assert all(map(torch.equal, weights, here))


def test_without_a_slope_nothing_moves() -> None:
    weights = make_weights(0, 2)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    here = [weight.clone() for weight in weights]
    with highest_nearby(weights, 1.0):
        assert all(map(torch.equal, weights, here))


def test_the_scale_of_a_layer_does_not_matter() -> None:
    """Scaling one layer up and the next one down is the same network, and the same worst case."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    images = torch.randn(16, 3)

    def worst(scale: float) -> Tensor:
        weights = list(network.parameters())
        with torch.no_grad():
            weights[0].mul_(scale)
            weights[1].div_(scale)
        network.zero_grad()
        network(images).square().mean().backward()
        with torch.no_grad(), highest_nearby(weights, 0.3):
            loss: Tensor = network(images).square().mean()
        return loss

    with torch.no_grad():
        here = network(images).square().mean()
    assert worst(1.0) > here
    torch.testing.assert_close(worst(8.0), worst(1.0))
