"""What a layer costs, as a function of the channels left on its two sides."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from compress.recipe.budget import Cost


class Layer:
    """A layer's size as a function of the channels left on its two sides.

    `places` is how often torchinfo counts its parameters as multiply-adds; `dim` is the side of a bare parameter
    that channels are removed from.
    """

    def __init__(self, module: Any, places: int, dim: int) -> None:
        self.places = places
        self.terms: list[
            tuple[int, int, int]
        ]  # a tensor's size, and how often it scales with each of the two sides
        if isinstance(module, nn.Parameter):
            self.full = [module.shape[dim], 1]
            self.terms = [(module.numel(), 1, 0)]
        elif isinstance(module, nn.MultiheadAttention):
            self.full = [module.embed_dim, 1]
            self.terms = [
                (p.numel(), sum(n % module.embed_dim == 0 for n in p.shape), 0)
                for p in module.parameters()
            ]
        else:
            mixes, single = (
                crossed(module),
                module.weight.shape[0] == 1,
            )  # a PReLU may have one slope for all
            self.full = [module.weight.shape[0], inputs(module) if mixes else 1]
            self.terms = [
                (p.numel(), not single, mixes and p.dim() > 1)
                for p in module.parameters(recurse=False)
            ]
        self.left = list(self.full)
        self.width = (
            module.dtype.itemsize if isinstance(module, nn.Parameter) else _itemsize(module)
        )
        buffers = () if isinstance(module, nn.Parameter) else module.buffers(recurse=False)
        self.statistics = sum(
            b.nbytes for b in buffers if b.dim() == 1 and len(b) == self.full[0]
        )  # of a batch norm
        self._known: dict[tuple[int, int], Cost] = {}

    def size(self) -> Cost:
        """What the layer costs."""
        outs, ins = self.left
        if (
            outs,
            ins,
        ) not in self._known:  # asked for the same widths over and over while a network is narrowed
            params = 0
            for numel, out_sides, in_sides in self.terms:
                left = outs**out_sides * ins**in_sides
                params += numel * left // (self.full[0] ** out_sides * self.full[1] ** in_sides)
            statistics = self.statistics * outs // self.full[0]
            self._known[outs, ins] = Cost(
                params, params * self.places, params * self.width + statistics
            )
        return self._known[outs, ins]


def places(model: nn.Module, example: Tensor) -> Counter[Any]:
    """How often each layer's parameters are used on one image, as torchinfo counts it: for each place of what a
    convolution puts out, once for any other layer, and not at all for a parameter outside of a layer."""
    found: Counter[Any] = Counter()

    def add(module: nn.Module, _: Any, out: Any) -> None:
        if not isinstance(out, Tensor):  # of a recurrent layer, which stays as it is
            return
        found[module] += out.shape[0] * (
            math.prod(out.shape[2:]) if isinstance(module, nn.Conv2d) else 1
        )

    leaves = [
        m for m in model.modules() if has_parameters(m) and not any(True for _ in m.children())
    ]
    hooks = [module.register_forward_hook(add) for module in leaves]
    try:
        with torch.no_grad():
            model(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def crossed(module: Any) -> bool:
    """Whether each channel that comes out of the layer is made of many that go in."""
    depthwise = (
        isinstance(module, nn.Conv2d) and module.groups == module.out_channels and module.groups > 1
    )
    return isinstance(module, nn.Conv2d | nn.Linear) and not depthwise


def has_parameters(module: Any) -> bool:
    return isinstance(module, nn.Parameter) or any(True for _ in module.parameters(recurse=False))


def _itemsize(module: nn.Module) -> int:
    return next(module.parameters(recurse=False)).dtype.itemsize


def inputs(module: nn.Conv2d | nn.Linear) -> int:
    """The channels that come into the layer."""
    return module.in_channels if isinstance(module, nn.Conv2d) else module.in_features
