"""torchinfo's count of a model: the single place where a budget is checked."""

from __future__ import annotations

import copy
import re

import torch
import torchinfo
from torch import nn
from torch.nn.utils import prune

from compress.recipe.budget import Cost


def measure_cost(model: nn.Module, input_size: tuple[int, int, int], sparse: bool = False) -> Cost:
    """Count `model` on one image of `input_size` (C, H, W), by torchinfo. The model is left as it was.

    Of a `sparse` model, one pruned weight by weight, weights that are zero do not count (but their bytes do).
    """
    statistics = _torchinfo(_masked(model) if sparse else model, input_size, depth=1)
    bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    return Cost(params=statistics.total_params, macs=int(statistics.total_mult_adds), bytes=bytes)


def summary_table(
    model: nn.Module, input_size: tuple[int, int, int], depth: int = 2, sparse: bool = False
) -> str:
    """torchinfo's table of `model`, layer by layer down to `depth`, as text; `sparse` as for `count`."""
    text = str(_torchinfo(_masked(model) if sparse else model, input_size, depth))
    return re.sub(
        r"Units\.(\w)\w+", r"\1", text
    )  # torchinfo 1.8 means "(M)" and prints "(Units.MEGABYTES)"


def weighted_layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """The layers whose single weights can be pruned: convolutions and linear layers."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _masked(model: nn.Module) -> nn.Module:
    """A copy in which zero weights are masked in torch's own way, which torchinfo knows."""
    model = copy.deepcopy(model)
    for layer in weighted_layers(model):
        prune.custom_from_mask(layer, "weight", layer.weight != 0)  # type: ignore[no-untyped-call]
    return model


def _torchinfo(
    model: nn.Module, input_size: tuple[int, int, int], depth: int
) -> torchinfo.ModelStatistics:
    modes = {module: module.training for module in model.modules()}
    weight = next(model.parameters(), torch.zeros(()))
    try:
        return torchinfo.summary(
            model,
            input_data=torch.zeros(1, *input_size, device=weight.device, dtype=weight.dtype),
            depth=depth,
            col_names=("output_size", "num_params", "mult_adds"),
            row_settings=("var_names", "depth"),
            verbose=0,
        )
    finally:
        for module, training in modes.items():
            module.training = training
