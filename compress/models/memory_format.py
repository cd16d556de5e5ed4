"""Memory formats: convolutions train fastest channels last, files and exports want contiguous tensors."""

from __future__ import annotations

import torch
from torch import nn


def to_channels_last(model: nn.Module) -> nn.Module:
    """Lay out the convolutions of `model` channels last, in place."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return model
