"""The networks that `accuracy.py` compares with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.models.cost import measure_cost


@pytest.mark.slow
@pytest.mark.parametrize("budget", [5_000, 100_000, 2_000_000])
def test_the_even_ratio_is_the_largest_that_fits(budget: int) -> None:
    from rivals import RESNET18, narrow, resnet18

    widths = narrow(RESNET18, budget, "small", 10)
    ratio = (widths[-1] + 1) / RESNET18[-1]
    more = tuple(max(1, int(width * ratio)) for width in RESNET18)
    sizes = [
        measure_cost(resnet18(shape, "small", 10), (3, 32, 32)).params for shape in (widths, more)
    ]
    assert sizes[0] <= budget < sizes[1]


def test_the_hand_shaped_network_is_the_reference_s_and_no_wider() -> None:
    from rivals import HAND_SHAPED, narrow, resnet18

    shape = narrow(HAND_SHAPED, 100_000, "small", 10)
    assert shape == narrow(HAND_SHAPED, 10**6, "small", 10) == HAND_SHAPED
    model = resnet18(shape, "small", 10)
    assert measure_cost(model, (3, 28, 28)).params == 94_866
    assert model.train()(torch.randn(2, 3, 28, 28)).shape == (2, 10)


def test_torch_pruning_lands_as_near_as_it_can() -> None:
    from rivals import torch_pruning_cut

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3),
        nn.BatchNorm2d(40),
        nn.ReLU(),
        nn.Conv2d(40, 60, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(60, 4),
    )
    pruned = torch_pruning_cut(model, torch.zeros(1, 3, 8, 8), 9_000, 4)
    # No channel costs more.
    step = 1 + 9 * 60 + 9 * 3
    assert 9_000 - 2 * step < measure_cost(pruned, (3, 8, 8)).params <= 9_000
    assert pruned[-1].out_features == 4 and model[0].out_channels == 40
