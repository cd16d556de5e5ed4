"""Muon: orthogonal steps for convolutions, SGD for everything else.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"
(kellerjordan.github.io/posts/muon), with the extension to convolutions of Jordan 2024 ("94 % on
CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498): their weights keep their norm. In
front of a normalization the norm has no effect on the output, but slows learning down as it grows.

torch.optim.Muon only takes matrices.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.9
# Rotation of a convolution's weights in one step, in radians, at a learning rate of 1.
ROTATION = 0.1
# Coefficients of the quintic that drives singular values towards 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Muon for convolutions and SGD for all other parameters, at SGD's learning rates.

    At a learning rate of `lr`, a step rotates convolutions by ``ROTATION * lr``. Convolutions
    (four-dimensional parameters) move in the direction of their momentum with all singular values
    made equal, and keep their norm: weight decay does not apply to them. Everything else is trained
    by SGD with Nesterov momentum.

    Args:
        groups: parameters, or groups of them with their own `weight_decay`, as for any torch
            optimizer. With ``turn`` False, a group's convolutions are trained by SGD, too: their
            norm is then free to change, as it must be where no normalization follows.
        lr: the learning rate.

    Example:
        >>> optimizer = Muon(model.parameters(), lr=0.1)
    """

    def __init__(self, groups: Iterable[Any], lr: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0, "turn": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients; parameters without one stay as they are."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            filters = [p for p in parameters if group["turn"] and p.dim() == 4]
            others = [p for p in parameters if not group["turn"] or p.dim() != 4]
            if others:
                _sgd(others, self._nesterov(others, group["weight_decay"]), group["lr"])
            if filters:
                self._rotate(filters, group["lr"] * ROTATION)

    def _nesterov(self, parameters: list[Tensor], weight_decay: float = 0.0) -> list[Tensor]:
        """Update the momenta, and return Nesterov's directions."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if weight_decay:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=weight_decay))
        for p in parameters:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in parameters]
        torch._foreach_mul_(momenta, MOMENTUM)
        torch._foreach_add_(momenta, gradients)
        return list(torch._foreach_add(gradients, momenta, alpha=MOMENTUM))

    def _rotate(self, filters: list[Tensor], angle: float) -> None:
        for p in filters:
            if "norm" not in self.state[p]:
                norm = p.norm()
                self.state[p]["norm"] = torch.where(norm > 0, norm, math.sqrt(len(p)))
        norms = [self.state[p]["norm"] for p in filters]
        steps = orthogonalize([d.flatten(1) for d in self._nesterov(filters)])
        lengths = torch._foreach_div(_norms(steps), norms)
        steps = [
            s.view(p.shape)
            for s, p in zip(torch._foreach_div(steps, lengths), filters, strict=True)
        ]
        _sgd(filters, steps, angle)
        torch._foreach_mul_(filters, torch._foreach_div(norms, _norms(filters)))


def _sgd(parameters: list[Tensor], directions: list[Tensor], lr: float) -> None:
    torch._foreach_add_(parameters, directions, alpha=-lr)


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    """Return norms that are safe to divide by.

    A layer behind a scale of zero has zero gradients, and stays as it is.
    """
    norms = list(torch._foreach_norm(tensors))
    torch._foreach_clamp_min_(norms, 1e-12)
    return norms


def orthogonalize(matrices: list[Tensor]) -> list[Tensor]:
    """Return each matrix with its singular values near 1, by Newton-Schulz iteration.

    They end between about 0.7 and 1.2. Matrices are padded with zeros to powers of two, which does
    not change the result, and all matrices of one shape are processed together.
    """
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    wide = [m if m.shape[0] <= m.shape[1] else m.T for m in matrices]
    for i, m in enumerate(wide):
        rows, columns = (1 << (side - 1).bit_length() for side in m.shape)
        buckets[rows, columns].append(i)
    found: dict[int, Tensor] = {}
    a, b, c = COEFFICIENTS
    for (rows, columns), members in buckets.items():
        x = matrices[0].new_zeros(len(members), rows, columns)
        for slot, i in zip(x, members, strict=True):
            slot[: wide[i].shape[0], : wide[i].shape[1]] = wide[i]
        x /= x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        for _ in range(ITERATIONS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
        for slot, i in zip(x, members, strict=True):
            found[i] = slot[: wide[i].shape[0], : wide[i].shape[1]]
    return [found[i] if m.shape[0] <= m.shape[1] else found[i].T for i, m in enumerate(matrices)]
