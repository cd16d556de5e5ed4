"""Folding batch norms: the same answers from fewer layers, and what must not be fuse_conv_bn is not."""

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

NORMS = {  # how many there are, and how many of them no convolution comes straight before
    "resnet18": (20, 0),
    "mobilenet_v2": (52, 0),
    "shufflenet_v2_x0_5": (56, 0),
    "efficientnet_b0": (49, 0),
    "regnet_y_400mf": (53, 0),
    "densenet121": (121, 62),
    "densenet40_12": (39, 39),
    "squeezenet1_0": (0, 0),
}


def stirred(model: nn.Module, seed: int) -> nn.Module:
    """`model` in double precision with batch norms as training might leave them: none is near the identity."""
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


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@torch.no_grad()
def check(model: nn.Module, images: Tensor) -> int:
    """Hold the fuse_conv_bn network against `model`, which stays as it was; how many batch norms it has left."""
    before, training = copy.deepcopy(model.state_dict()), model.training
    fold = fuse_conv_bn(model)
    now = model.state_dict()
    assert before.keys() == now.keys() and all(torch.equal(before[key], now[key]) for key in now)
    assert model.training is training and not any(module.training for module in fold.modules())
    torch.testing.assert_close(
        fold(images), copy.deepcopy(model).eval()(images), rtol=1e-9, atol=1e-9
    )
    return norms(fold)


@pytest.mark.parametrize("name", NORMS)
def test_networks_answer_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = stirred(build(ModelSpec(name), 10), 1)
    assert (norms(model), check(model, torch.randn(2, 3, 32, 32, dtype=torch.float64))) == NORMS[
        name
    ]


@pytest.mark.parametrize("name", ["resnet10", "mobilenet_v3_small"])
def test_pruned_networks_answer_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = build(ModelSpec(name), 10)
    half = sum(parameter.numel() for parameter in model.parameters()) // 2
    pruned = stirred(prune(model, torch.zeros(1, 3, 32, 32), half, importance="magnitude"), 2)
    assert check(pruned, torch.randn(2, 3, 32, 32, dtype=torch.float64)) == 0


@settings(deadline=None, max_examples=15)
@given(
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    affine=st.booleans(),
    padding=st.sampled_from(["zeros", "reflect", "circular"]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=st.integers(0, 99),
)
def test_any_convolution_takes_its_batch_norm_in(
    groups: int, bias: bool, affine: bool, padding: str, layout: torch.memory_format, seed: int
) -> None:
    torch.manual_seed(seed)
    conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups, bias=bias, padding_mode=padding)
    model = nn.Sequential(conv, nn.BatchNorm2d(8, affine=affine), nn.ReLU()).to(
        memory_format=layout
    )
    model = model.train(seed % 2 == 0)
    assert check(stirred(model, seed), torch.randn(3, 4, 8, 8, dtype=torch.float64)) == 0


class Two(nn.Module):
    """Two convolutions and two batch norms, put together by `way`."""

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
        (lambda net, x: net.n(net.a(x)) + net.m(net.a(x)), 2),  # one convolution, two batch norms
        (lambda net, x: net.m(net.a(net.n(net.a(x)))), 2),
        (lambda net, x: net.n(net.a(x)) + net.n(net.b(x)), 2),  # one batch norm, two convolutions
        (lambda net, x: (y := net.a(x)) + net.n(y), 2),  # others listen too
        (lambda net, x: net.n(net.a(x)) + net.a.weight.sum(), 2),
        (lambda net, x: net.n(net.a(x)) * net.n.running_var.sum(), 2),
        (lambda net, x: net.b(net.n(net.a(x).relu())), 2),
        (branching, 2),  # torch.fx cannot follow it
    ],
)
def test_what_would_change_the_answers_stays(
    way: Callable[[Two, Tensor], Tensor], left: int
) -> None:
    torch.manual_seed(0)
    assert check(stirred(Two(way), 0), torch.randn(2, 3, 8, 8, dtype=torch.float64)) == left


def test_layers_that_work_their_weights_out_stay() -> None:
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    two = Two(lambda net, x: net.m(net.b(net.n(net.a(x)))))
    parametrize.register_parametrization(two.a, "weight", nn.Tanh())
    assert check(stirred(two, 0), images) == 1
    two = Two(lambda net, x: net.m(net.b(net.n(net.a(x)))))
    two.n.register_forward_hook(lambda module, inputs, output: output * 2)
    two.b.register_forward_pre_hook(lambda module, inputs: inputs[0] * 2)
    assert check(stirred(two, 0), images) == 2


def test_a_layer_of_two_names_is_one_layer() -> None:
    two = Two(lambda net, x: net.also_n(net.also_a(x)))
    two.also_a, two.also_n = two.a, two.n
    assert (
        check(stirred(two, 0), torch.randn(2, 3, 8, 8, dtype=torch.float64)) == 1
    )  # m, which nobody asks


class Remembering(nn.Module):
    """Keeps what it computed, which no copy can be made of while gradients are wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.seen = self.conv(images)
        return self.seen.mean((2, 3))


def test_a_network_that_cannot_be_copied_answers_itself() -> None:
    model, images = Remembering(), torch.rand(2, 3, 8, 8)
    before = model(images)
    assert torch.equal(fuse_conv_bn(model)(images), before) and not model.training
