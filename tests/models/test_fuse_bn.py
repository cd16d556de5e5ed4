"""Fusing batch norms: equal outputs from fewer layers, and layers that must stay."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compress.models.build import build
from compress.models.fuse_bn import fuse_conv_bn
from compress.pruning.pruner import prune
from compress.recipe.model_spec import ModelSpec

# Number of batch norms, and of those that do not follow a convolution directly.
NORMS = {
    "resnet18": (20, 0),
    "mobilenet_v2": (52, 0),
    "shufflenet_v2_x0_5": (56, 0),
    "efficientnet_b0": (49, 0),
    "regnet_y_400mf": (53, 0),
    "densenet121": (121, 62),
    "densenet40_12": (39, 39),
    "squeezenet1_0": (0, 0),
}


def randomize_norms(model: nn.Module, seed: int) -> nn.Module:
    """Convert `model` to double precision and move its batch norms far from the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if (
            isinstance(module, nn.BatchNorm2d)
            and module.running_mean is not None
            and module.running_var is not None
        ):
            module.running_mean.normal_(std=0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(std=0.3, generator=generator)
    return model.double()


def count_norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@torch.no_grad()
def count_left(model: nn.Module, images: Tensor) -> int:
    """Fuse, check that outputs are equal and `model` unchanged, and count the remaining norms."""
    before, training = copy.deepcopy(model.state_dict()), model.training
    fused = fuse_conv_bn(model)
    now = model.state_dict()
    assert before.keys() == now.keys() and all(torch.equal(before[key], now[key]) for key in now)
    assert model.training is training and not any(module.training for module in fused.modules())
    torch.testing.assert_close(
        fused(images), copy.deepcopy(model).eval()(images), rtol=1e-9, atol=1e-9
    )
    return count_norms(fused)


@pytest.mark.parametrize("name", NORMS)
def test_fused_network_has_equal_outputs(name: str) -> None:
    torch.manual_seed(0)
    model = randomize_norms(build(ModelSpec(name), 10), 1)
    assert (
        count_norms(model),
        count_left(model, torch.randn(2, 3, 32, 32, dtype=torch.float64)),
    ) == NORMS[name]


@pytest.mark.parametrize("name", ["resnet10", "mobilenet_v3_small"])
def test_fused_pruned_network_has_equal_outputs(name: str) -> None:
    torch.manual_seed(0)
    model = build(ModelSpec(name), 10)
    half = sum(parameter.numel() for parameter in model.parameters()) // 2
    pruned = randomize_norms(
        prune(model, torch.zeros(1, 3, 32, 32), half, importance="magnitude"), 2
    )
    assert count_left(pruned, torch.randn(2, 3, 32, 32, dtype=torch.float64)) == 0


@settings(deadline=None, max_examples=15)
@given(
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    affine=st.booleans(),
    padding=st.sampled_from(["zeros", "reflect", "circular"]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=st.integers(0, 99),
)
def test_any_convolution_is_fused(
    groups: int, bias: bool, affine: bool, padding: str, layout: torch.memory_format, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups, bias=bias, padding_mode=padding)
    model = nn.Sequential(conv, nn.BatchNorm2d(8, affine=affine), nn.ReLU()).to(
        memory_format=layout
    )
    model = model.train(seed % 2 == 0)
    assert (
        count_left(randomize_norms(model, seed), torch.randn(3, 4, 8, 8, dtype=torch.float64)) == 0
    )


class Two(nn.Module):
    """Two convolutions and two batch norms, connected by `way`."""

    def __init__(self, way: Callable[[Two, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.n, self.m = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def branching(net: Two, x: Tensor) -> Tensor:
    return net.n(net.a(x)) if x.sum() > 0 else net.m(net.b(x))


@pytest.mark.parametrize(
    ("way", "left"),
    [
        (lambda net, x: net.m(net.b(net.n(net.a(x)))), 0),
        # One convolution, two batch norms.
        (lambda net, x: net.n(net.a(x)) + net.m(net.a(x)), 2),
        (lambda net, x: net.m(net.a(net.n(net.a(x)))), 2),
        # One batch norm, two convolutions.
        (lambda net, x: net.n(net.a(x)) + net.n(net.b(x)), 2),
        # The convolution's output, its weight, or the running variance is also used elsewhere.
        (lambda net, x: (y := net.a(x)) + net.n(y), 2),
        (lambda net, x: net.n(net.a(x)) + net.a.weight.sum(), 2),
        (lambda net, x: net.n(net.a(x)) * net.n.running_var.sum(), 2),
        # An activation in between.
        (lambda net, x: net.b(net.n(net.a(x).relu())), 2),
        # torch.fx cannot trace it.
        (branching, 2),
    ],
)
def test_batch_norm_stays_where_fusing_would_change_outputs(
    way: Callable[[Two, Tensor], Tensor], left: int
) -> None:
    torch.manual_seed(0)
    assert (
        count_left(randomize_norms(Two(way), 0), torch.randn(2, 3, 8, 8, dtype=torch.float64))
        == left
    )


def test_layers_with_parametrizations_or_hooks_stay() -> None:
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    two = Two(lambda net, x: net.m(net.b(net.n(net.a(x)))))
    parametrize.register_parametrization(two.a, "weight", nn.Tanh())
    assert count_left(randomize_norms(two, 0), images) == 1
    two = Two(lambda net, x: net.m(net.b(net.n(net.a(x)))))
    two.n.register_forward_hook(lambda module, inputs, output: output * 2)
    two.b.register_forward_pre_hook(lambda module, inputs: inputs[0] * 2)
    assert count_left(randomize_norms(two, 0), images) == 2


def test_layer_with_two_names_is_one_layer() -> None:
    two = Two(lambda net, x: net.also_n(net.also_a(x)))
    two.also_a, two.also_n = two.a, two.n
    assert count_left(randomize_norms(two, 0), torch.randn(2, 3, 8, 8, dtype=torch.float64)) == 1


class Remembering(nn.Module):
    """Keeps its features, which cannot be copied while they require gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = self.conv(images)
        return self.seen.mean((2, 3))


def test_network_that_cannot_be_copied_is_returned_itself() -> None:
    model, images = Remembering(), torch.rand(2, 3, 8, 8)
    before = model(images)
    assert fuse_conv_bn(model) is model and not model.training
    assert torch.equal(model(images), before)
