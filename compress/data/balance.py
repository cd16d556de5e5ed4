"""Balance: weights for classes of uneven size."""

from __future__ import annotations

import torch
from torch import Tensor

# `balance = "auto"`: the largest class is so many times as large as the smallest.
UNEVEN = 3.0
# Weights are this power of the inverse frequency: 1 would show all classes equally often, at the
# expense of the large ones.
POWER = 0.5


def is_uneven(targets: Tensor, classes: int) -> bool:
    """Return True if the largest class is at least `UNEVEN` times as large as the smallest.

    Args:
        targets: class numbers, int64 (N,).

    Example:
        >>> is_uneven(torch.tensor([0, 0, 0, 1]), 2)
        True
    """
    counts = torch.bincount(targets, minlength=classes)
    return int(counts.max()) >= UNEVEN * int(counts.min())


def class_weights(targets: Tensor, classes: int) -> Tensor:
    """Return the weight of each class, float64 (classes,), 1 on average over the images.

    Args:
        targets: class numbers, int64 (N,).
    """
    counts = torch.bincount(targets, minlength=classes).double()
    weights = counts.clamp(min=1).pow(-POWER)
    return weights * counts.sum() / (weights * counts).sum()
