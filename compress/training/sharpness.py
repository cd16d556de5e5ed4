"""Sharpness-aware minimization: train for a loss that is low nearby, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def highest_nearby(weights: list[Tensor], radius: float) -> Iterator[None]:
    """Move `weights` to where their loss is highest nearby, and back at the end.

    The gradient there, in place of the one here, is what sharpness-aware minimization follows
    (Foret et al. 2021, arXiv:2010.01412). How far is nearby is relative to each weight, so that
    scaling a layer does not change it (ASAM, Kwon et al. 2021, arXiv:2102.11600, without their
    constant).

    Args:
        weights: with their gradients in `grad`.
        radius: of the ellipsoid around the weights, whose axes are as long as the weights are.

    Example:
        >>> weight = torch.tensor([2.0, -1.0], requires_grad=True)
        >>> (3 * weight[0]).backward()
        >>> with highest_nearby([weight], radius=0.5):
        ...     print(weight.tolist())
        [3.0, -1.0]
        >>> weight.tolist()
        [2.0, -1.0]
    """
    with torch.no_grad():
        kept = [weight.clone() for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        sizes = torch._foreach_abs(weights)
        slopes = torch._foreach_mul(sizes, gradients)
        # All weights are one point: the norm is that of all of them.
        norm = torch.stack(torch._foreach_norm(slopes)).norm().clamp(min=1e-12)
        moves = torch._foreach_mul(torch._foreach_mul(sizes, slopes), radius / norm)
        torch._foreach_add_(weights, moves)
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, kept)
