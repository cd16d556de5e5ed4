"""The cost of one layer as a function of its widths."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from compress.recipe.budget import Cost


@dataclass(frozen=True)
class _Count:
    """A number at full width, and the powers of the two widths that it grows with."""

    full: int
    out_power: int
    in_power: int


class LayerCost:
    """The cost of a layer as a function of its output and input widths, in channels.

    Args:
        module: a layer with parameters, or a bare parameter.
        macs: its multiply-adds at full width, as `compress.models.cost.count_macs` counts them.
        dim: for a bare parameter, the dimension that channels are removed from.
        time: returns its nanoseconds at output and input widths; left out if time does not matter.

    Attributes:
        full_widths: output and input channels before anything is removed.
        widths: output and input channels that are left; set by `Structure`.
    """

    def __init__(
        self, module: Any, macs: int, dim: int, time: Callable[[int, int], int] | None = None
    ) -> None:
        self._time = time
        self.full_widths, self._tensors = _measure_tensors(module, dim)
        self._macs = _measure_macs(module, macs)
        self.widths = list(self.full_widths)
        if isinstance(module, nn.Parameter):
            self._itemsize, buffers = module.dtype.itemsize, []
        else:
            self._itemsize = next(module.parameters(recurse=False)).dtype.itemsize
            buffers = list(module.buffers(recurse=False))
        # The running statistics of a batch norm.
        self._statistics_bytes = sum(
            b.nbytes for b in buffers if b.dim() == 1 and len(b) == self.full_widths[0]
        )
        # While a network is narrowed, the same widths come up over and over.
        self._cache: dict[tuple[int, int], Cost] = {}

    def predict_cost(self) -> Cost:
        """Return the cost of the layer at `widths`."""
        outs, ins = self.widths
        if (outs, ins) not in self._cache:
            params = sum(self._scale(count) for count in self._tensors)
            macs = sum(self._scale(count) for count in self._macs)
            statistics = self._statistics_bytes * outs // self.full_widths[0]
            size = params * self._itemsize + statistics
            latency = self._time(outs, ins) if self._time else 0
            self._cache[outs, ins] = Cost(params, macs, size, latency)
        return self._cache[outs, ins]

    def _scale(self, count: _Count) -> int:
        """Return `count` at `widths`."""
        (outs, ins), (full_outs, full_ins) = self.widths, self.full_widths
        left = outs**count.out_power * ins**count.in_power
        full = full_outs**count.out_power * full_ins**count.in_power
        return int(count.full * left // full)


def _measure_tensors(module: Any, dim: int) -> tuple[list[int], list[_Count]]:
    """Return the full widths of a layer and the sizes of its parameters."""
    if isinstance(module, nn.Parameter):
        return [module.shape[dim], 1], [_Count(module.numel(), 1, 0)]
    if isinstance(module, nn.MultiheadAttention):
        width = module.embed_dim
        return [width, 1], [
            _Count(p.numel(), sum(side % width == 0 for side in p.shape), 0)
            for p in module.parameters()
        ]
    mixes = mixes_channels(module)
    outs = module.weight.shape[0]
    # A PReLU may have one slope for all channels, which stays.
    out_power = int(outs != 1)
    return [outs, get_in_channels(module) if mixes else 1], [
        _Count(p.numel(), out_power, int(mixes and p.dim() > 1))
        for p in module.parameters(recurse=False)
    ]


def _measure_macs(module: Any, macs: int) -> list[_Count]:
    """Return the multiply-adds of a layer, in parts that grow with different widths."""
    if isinstance(module, nn.MultiheadAttention):
        projections = _count_projections(module, macs)
        return [_Count(projections, 2, 0), _Count(macs - projections, 1, 0)]
    return [_Count(macs, 1, int(mixes_channels(module)))]


def _count_projections(attention: nn.MultiheadAttention, macs: int) -> int:
    """Return the part of `macs` that an attention over itself spends on its four projections.

    T tokens of width E take 4E²T for these, and 2ET² for products of queries, keys and values.
    """
    width = attention.embed_dim
    tokens = round(math.sqrt(width**2 + macs / (2 * width)) - width)
    return int(4 * width**2 * tokens)


def mixes_channels(module: Any) -> bool:
    """Return True for linear layers, and for convolutions that are not depthwise."""
    if isinstance(module, nn.Conv2d):
        return not (module.groups == module.out_channels and module.groups > 1)
    return isinstance(module, nn.Linear)


def has_parameters(module: Any) -> bool:
    """Return True for a bare parameter, and for a module that holds parameters itself."""
    return isinstance(module, nn.Parameter) or any(True for _ in module.parameters(recurse=False))


def get_in_channels(module: nn.Conv2d | nn.Linear) -> int:
    """Return the number of input channels or features of a layer."""
    return module.in_channels if isinstance(module, nn.Conv2d) else module.in_features
