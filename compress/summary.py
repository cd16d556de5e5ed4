"""torchinfo's count of a model: the single place where a budget is checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torchinfo
from torch import nn


@dataclass(frozen=True)
class Count:
    """What a model costs for one image: `params` (weights and biases) and `macs` (multiply-adds)."""

    params: int
    macs: int

    def __add__(self, other: Count) -> Count:
        return Count(self.params + other.params, self.macs + other.macs)

    def __sub__(self, other: Count) -> Count:
        return Count(self.params - other.params, self.macs - other.macs)


def count(model: nn.Module, input_size: tuple[int, int, int]) -> Count:
    """Count `model` on one image of `input_size` (C, H, W), by torchinfo. The model is left as it was."""
    statistics = _torchinfo(model, input_size, depth=1)
    return Count(params=statistics.total_params, macs=int(statistics.total_mult_adds))


def table(model: nn.Module, input_size: tuple[int, int, int], depth: int = 2) -> str:
    """torchinfo's table of `model`, layer by layer down to `depth`, as text."""
    text = str(_torchinfo(model, input_size, depth))
    return re.sub(r"Units\.(\w)\w+", r"\1", text)  # torchinfo 1.8 means "(M)" and prints "(Units.MEGABYTES)"


def _torchinfo(model: nn.Module, input_size: tuple[int, int, int], depth: int) -> torchinfo.ModelStatistics:
    modes = {module: module.training for module in model.modules()}
    weight = next(model.parameters())
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
