"""Costs: published counts, pruned weights, and models that stay unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.models.build import build
from compress.models.cost import measure_cost, prunable_layers, summary_table
from compress.recipe.model_spec import ModelSpec


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    # Parameters and GFLOPS in torchvision's table of weights.
    [("resnet18", 11_689_512, 1.81), ("mobilenet_v2", 3_504_872, 0.30)],
)
def test_counts_are_the_published_ones(name: str, params: int, macs: float) -> None:
    cost = measure_cost(build(ModelSpec(name), 1000), (3, 224, 224))
    assert cost.params == params and round(cost.macs / 1e9, 2) == macs


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
