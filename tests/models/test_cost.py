"""Costs: published counts, pruned weights, and models that stay unchanged."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compress.models.build import build
from compress.models.cost import (
    count_macs,
    describe_difference,
    measure_cost,
    prunable_layers,
    summary_table,
)
from compress.recipe.model_spec import ModelSpec


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    # Parameters and GFLOPS in torchvision's table of weights.
    [("resnet18", 11_689_512, 1.81), ("mobilenet_v2", 3_504_872, 0.30)],
)
def test_counts_are_the_published_ones(name: str, params: int, macs: float) -> None:
    cost = measure_cost(build(ModelSpec(name), 1000), (3, 224, 224))
    assert cost.params == params and round(cost.macs / 1e9, 2) == macs


class Same(nn.Conv2d):
    """A convolution of another name."""


class Tokens(nn.Module):
    """A linear layer for each pixel, and a product of two activations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, maps: Tensor) -> Tensor:
        tokens = self.linear(maps.flatten(2).mT)
        return F.gelu(tokens.mT @ tokens)  # type: ignore[no-any-return]


@st.composite
def networks(draw: st.DrawFn) -> nn.Module:
    """Draw a small network of plain, grouped and renamed convolutions, shared layers and tokens."""
    width = draw(st.sampled_from([4, 8]))
    layers: list[nn.Module] = [
        draw(st.sampled_from([nn.Conv2d, Same]))(3, width, draw(st.integers(1, 3)))
    ]
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["conv", "grouped", "depthwise", "norm", "again"]))
        if kind == "again":
            layers.append(layers[-1] if len(layers) > 1 else nn.ReLU())
        elif kind == "norm":
            layers.append(nn.BatchNorm2d(width))
        else:
            groups = {"conv": 1, "grouped": 2, "depthwise": width}[kind]
            layers.append(Same(width, width, 3, padding=1, groups=groups, bias=draw(st.booleans())))
    end = [Tokens(width)] if draw(st.booleans()) else [nn.Flatten(), nn.LazyLinear(5)]
    model = nn.Sequential(*layers, *end)
    model(torch.zeros(2, 3, 9, 9))
    return model.eval()


@settings(deadline=None)
@given(model=networks())
def test_multiply_adds_are_half_of_what_torch_counts(model: nn.Module) -> None:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 9, 9))
    macs = count_macs(model, torch.zeros(1, 3, 9, 9))
    assert 2 * macs.total == counter.get_total_flops() and macs.total >= macs.layers.total()
    assert measure_cost(model, (3, 9, 9)).macs == macs.total
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_counts_as_often_as_it_runs() -> None:
    conv, unused = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)
    model = nn.Sequential(conv, conv, nn.Flatten())
    model.unused = unused
    assert count_macs(model[:3], torch.zeros(1, 3, 6, 4)).layers == {conv: 2 * 81 * 6 * 4}


def test_a_miscount_of_torchinfo_is_said() -> None:
    plain, renamed = nn.Conv2d(3, 8, 3), Same(3, 8, 3)
    assert describe_difference(plain, (3, 16, 16)) is None
    line = describe_difference(renamed, (3, 16, 16)) or ""
    macs = 3 * 8 * 9 * 14 * 14
    assert measure_cost(renamed, (3, 16, 16)).macs == macs
    assert f"{macs:,}" in line and "torchinfo" in line
    table = summary_table(renamed, (3, 16, 16))
    assert line in table
    cost = measure_cost(renamed, (3, 16, 16))
    assert summary_table(renamed, (3, 16, 16), cost=cost) == table


def test_bytes_are_those_of_all_tensors() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    # 12 weights, 4 biases, 4 × 4 of the batch norm in float32, and its int64 counter.
    assert measure_cost(model, (3, 5, 5)).bytes == 4 * (12 + 4 + 16) + 8


def test_zeros_count_only_if_dense() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model.get_submodule("0").weight[0] = 0
    dense, sparse = (measure_cost(model, (3, 2, 2), sparse) for sparse in (False, True))
    assert dense.params == 12 + 4 + 32 + 2 and sparse.params == dense.params - 3
    assert sparse.bytes == dense.bytes
    assert "47" in summary_table(model, (3, 2, 2), sparse=True)


def test_model_is_unchanged_by_measuring() -> None:
    model = build(ModelSpec("resnet10", "small"), 5)
    model.get_submodule("layer1").eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    measure_cost(model, (3, 16, 16), sparse=True)
    summary_table(model, (3, 16, 16))
    assert [module.training for module in model.modules()] == modes
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_table_names_layers_down_to_the_depth() -> None:
    model = build(ModelSpec("resnet10", "small"), 5)
    table = summary_table(model, (3, 16, 16), depth=1)
    assert "conv1" in table and "layer4" in table and "Units." not in table
    assert "BasicBlock" not in table and "BasicBlock" in summary_table(model, (3, 16, 16))


def test_prunable_layers_are_convolutions_and_linear_layers() -> None:
    model = build(ModelSpec("resnet18"), 5)
    assert [type(layer) for layer in prunable_layers(model)] == [nn.Conv2d] * 20 + [nn.Linear]
