"""Balance: classes of uneven size."""

from __future__ import annotations

import torch
from torch import Tensor

# `balance = "auto"`: the largest class is so many times as large as the smallest.
UNEVEN = 3.0
# Chances are this power of the inverse frequency: 1 would show all classes equally often, at the
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


def log_priors(targets: Tensor, classes: int) -> Tensor:
    """Return the logarithm of the frequency of each class, float64 (classes,).

    Args:
        targets: class numbers, int64 (N,); a class without images counts as one image.
    """
    counts = torch.bincount(targets, minlength=classes).double().clamp(min=1)
    return (counts / counts.sum()).log()


def draw_chances(targets: Tensor, classes: int) -> Tensor:
    """Return the relative chance of each image to be drawn, float64 (N,).

    Args:
        targets: class numbers, int64 (N,).
    """
    counts = torch.bincount(targets, minlength=classes).double()
    return counts.clamp(min=1).pow(-POWER)[targets]
