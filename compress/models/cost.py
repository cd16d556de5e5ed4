"""Cost of a model: parameters, multiply-adds and bytes. Budgets are checked here only."""

from __future__ import annotations

import copy
import re

import torch
import torchinfo
from torch import nn
from torch.nn.utils import prune

from compress.recipe.budget import Cost


def measure_cost(model: nn.Module, input_size: tuple[int, int, int], sparse: bool = False) -> Cost:
    """Count parameters and multiply-adds, by torchinfo, and the bytes of all tensors.

    Args:
        input_size: (C, H, W) of the image for which multiply-adds are counted.
        sparse: do not count zero weights, for a model with pruned weights; their bytes do count.

    Example:
        >>> measure_cost(torchvision.models.resnet18(), (3, 224, 224)).params
        11689512
    """
    statistics = _summarize(_mask_zeros(model) if sparse else model, input_size, depth=1)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    return Cost(params=statistics.total_params, macs=int(statistics.total_mult_adds), bytes=size)


def summary_table(
    model: nn.Module, input_size: tuple[int, int, int], depth: int = 2, sparse: bool = False
) -> str:
    """Return torchinfo's table of `model` as text.

    Args:
        input_size: (C, H, W) of the image for which multiply-adds are counted.
        depth: how many levels of nested modules to show.
        sparse: as for `measure_cost`.
    """
    text = str(_summarize(_mask_zeros(model) if sparse else model, input_size, depth))
    # torchinfo 1.8 prints "(Units.MEGABYTES)" for "(M)".
    return re.sub(r"Units\.(\w)\w+", r"\1", text)


def prunable_layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Return the layers whose single weights can be pruned: convolutions and linear layers."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _mask_zeros(model: nn.Module) -> nn.Module:
    """Return a copy with its zero weights masked by torch's own pruning, as torchinfo expects."""
    model = copy.deepcopy(model)
    for layer in prunable_layers(model):
        prune.custom_from_mask(layer, "weight", layer.weight != 0)  # type: ignore[no-untyped-call]
    return model


def _summarize(
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
