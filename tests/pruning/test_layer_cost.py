"""The predicted cost of a layer is that of a layer built with those widths."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from compress.models.cost import count_macs, measure_cost
from compress.pruning.layer_cost import LayerCost, mixes_channels

IMAGE_SIZE = 9


@pytest.mark.parametrize(
    "make_layer",
    [
        lambda outs, ins: nn.Conv2d(ins, outs, 3, stride=2),
        lambda outs, ins: nn.Conv2d(ins, outs, 3, bias=False),
        lambda outs, ins: nn.Conv2d(ins, outs, (1, 5), groups=4, padding=1),
        lambda outs, ins: nn.Linear(ins, outs),
    ],
    ids=["strided", "no_bias", "grouped", "linear"],
)
def test_layers_that_mix_channels_scale_with_both_widths(
    make_layer: Callable[[int, int], nn.Module],
) -> None:
    def measure(layer: nn.Module, ins: int) -> tuple[LayerCost, object]:
        linear = isinstance(layer, nn.Linear)
        images = (
            torch.zeros(1, 1, 1, ins) if linear else torch.zeros(1, ins, IMAGE_SIZE, IMAGE_SIZE)
        )
        macs = count_macs(layer, images)
        cost = measure_cost(layer, (images.shape[1], images.shape[2], images.shape[3]))
        return LayerCost(layer, macs.layers[layer], dim=0), cost

    cost, full = measure(make_layer(24, 16), 16)
    assert cost.full_widths == [24, 16]
    assert cost.predict_cost() == full
    for outs, ins in ((24, 8), (8, 16), (4, 4)):
        cost.widths = [outs, ins]
        assert cost.predict_cost() == measure(make_layer(outs, ins), ins)[1]


@pytest.mark.parametrize(
    "make_layer",
    [
        lambda width: nn.Conv2d(width, width, 3, groups=width),
        nn.BatchNorm2d,
        nn.PReLU,
        lambda width: nn.GroupNorm(4, width),
        lambda width: nn.MultiheadAttention(width, 4),
    ],
    ids=["depthwise", "batch_norm", "prelu", "group_norm", "attention"],
)
def test_layers_of_one_width_scale_with_it(make_layer: Callable[[int], nn.Module]) -> None:
    cost = LayerCost(make_layer(24), macs=0, dim=0)
    assert cost.full_widths == [24, 1]
    for width in (24, 12, 8):
        cost.widths[0] = width
        layer = make_layer(width)
        predicted = cost.predict_cost()
        assert predicted.params == sum(p.numel() for p in layer.parameters())
        # Batch norms also count batches, in one number that no cut removes.
        floats = [t for t in layer.state_dict().values() if t.is_floating_point()]
        assert predicted.bytes == sum(t.nbytes for t in floats)


def test_one_slope_for_all_channels_stays() -> None:
    cost = LayerCost(nn.PReLU(), macs=0, dim=0)
    cost.widths[0] = 0
    assert cost.predict_cost().params == 1


def test_a_bare_parameter_scales_along_the_dimension_of_its_channels() -> None:
    cost = LayerCost(nn.Parameter(torch.zeros(1, 5, 24, dtype=torch.float64)), macs=0, dim=2)
    cost.widths[0] = 8
    predicted = cost.predict_cost()
    assert (predicted.params, predicted.macs, predicted.bytes) == (40, 0, 320)


def test_multiply_adds_of_attention_scale_with_its_width() -> None:
    def measure(width: int) -> tuple[LayerCost, int]:
        attention, tokens = nn.MultiheadAttention(width, 4), torch.zeros(7, 1, width)
        model = nn.Module()
        model.attention = attention
        model.forward = lambda _: attention(tokens, tokens, tokens)  # type: ignore[method-assign]
        macs = count_macs(model, torch.zeros(1)).total
        return LayerCost(attention, macs, dim=0), macs

    cost, full = measure(24)
    assert full == 4 * 24**2 * 7 + 2 * 24 * 7**2
    for width in (24, 12, 8):
        cost.widths[0] = width
        assert cost.predict_cost().macs == measure(width)[1]


def test_depthwise_convolutions_do_not_mix_channels() -> None:
    assert not mixes_channels(nn.Conv2d(8, 8, 3, groups=8))
    assert mixes_channels(nn.Conv2d(8, 8, 3, groups=4))
    assert mixes_channels(nn.Conv2d(1, 1, 3))
    assert mixes_channels(nn.Linear(8, 8))
    assert not mixes_channels(nn.BatchNorm2d(8))
