"""The cost of one layer as a function of its widths."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.recipe.budget import Cost


@dataclass(frozen=True)
class _TensorSize:
    """Elements of a tensor at full width, and the powers of the two widths that they grow with."""

    numel: int
    out_power: int
    in_power: int


class LayerCost:
    """The cost of a layer as a function of its output and input widths, in channels.

    Args:
        module: a layer with parameters, or a bare parameter.
        positions: multiply-adds per parameter, as counted by `count_positions`.
        dim: for a bare parameter, the dimension that channels are removed from.

    Attributes:
        full_widths: output and input channels before anything is removed.
        widths: output and input channels that are left; set by `Structure`.
    """

    def __init__(self, module: Any, positions: int, dim: int) -> None:
        self.positions = positions
        self.full_widths, self._tensors = _measure_tensors(module, dim)
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
            full_outs, full_ins = self.full_widths
            params = 0
            for tensor in self._tensors:
                left = outs**tensor.out_power * ins**tensor.in_power
                full = full_outs**tensor.out_power * full_ins**tensor.in_power
                params += tensor.numel * left // full
            statistics = self._statistics_bytes * outs // full_outs
            self._cache[outs, ins] = Cost(
                params, params * self.positions, params * self._itemsize + statistics
            )
        return self._cache[outs, ins]


def _measure_tensors(module: Any, dim: int) -> tuple[list[int], list[_TensorSize]]:
    """Return the full widths of a layer and the sizes of its parameters."""
    if isinstance(module, nn.Parameter):
        return [module.shape[dim], 1], [_TensorSize(module.numel(), 1, 0)]
    if isinstance(module, nn.MultiheadAttention):
        width = module.embed_dim
        return [width, 1], [
            _TensorSize(p.numel(), sum(side % width == 0 for side in p.shape), 0)
            for p in module.parameters()
        ]
    mixes = mixes_channels(module)
    outs = module.weight.shape[0]
    # A PReLU may have one slope for all channels, which stays.
    out_power = int(outs != 1)
    return [outs, get_in_channels(module) if mixes else 1], [
        _TensorSize(p.numel(), out_power, int(mixes and p.dim() > 1))
        for p in module.parameters(recurse=False)
    ]


def count_positions(model: nn.Module, example: Tensor) -> Counter[Any]:
    """Count how often each layer uses its parameters on one image, as torchinfo does.

    A convolution uses them once per output position, any other layer once. Parameters outside of
    layers count 0.
    """
    positions: Counter[Any] = Counter()

    def add(module: nn.Module, _: Any, out: Any) -> None:
        # Recurrent layers return tuples; they are never pruned.
        if isinstance(out, Tensor):
            area = math.prod(out.shape[2:]) if isinstance(module, nn.Conv2d) else 1
            positions[module] += out.shape[0] * area

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
    return positions


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
