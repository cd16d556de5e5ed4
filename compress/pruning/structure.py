"""What can be removed from a network: channels that hang together, and what each of them costs.

Removing an output channel of one layer removes an input channel of every layer that reads it, and, through
additions and concatenations, channels of others still. torch-pruning's dependency graph (Fang et al. 2023, "DepGraph",
arXiv:2301.12900) finds these couplings; here they are counted, so that the size of the network is known for any
choice of widths before a single tensor is cut.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.errors import UserError
from compress.summary import Count, count


@dataclass(frozen=True)
class Touch:
    """Removing one unit of a coupling takes `channels` channels from one side of `layer`."""

    layer: Any
    side: int  # 0: output, 1: input
    channels: int


@dataclass(frozen=True)
class Coupling:
    """Channels that can only be removed together. `units[i]` are the root layer's channels of unit i."""

    root: nn.Module
    group: Any  # torch-pruning's group, with every channel in it
    units: Tensor  # (units, channels of the root layer in each) int64
    touches: tuple[Touch, ...]

    def __len__(self) -> int:
        return len(self.units)


class Structure:
    """The couplings of a model, and its size as a function of how many units each one keeps.

    Args:
        model: any network that autograd can trace; its parameters must require gradients.
        example: one batch of input, (B, C, H, W).

    Raises:
        UserError: torch-pruning cannot trace the network, or finds nothing in it to prune.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        try:
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")
                self.graph = tp.DependencyGraph().build_dependency(model, example, verbose=False)
                groups = list(self.graph.get_all_groups())
        except Exception as error:
            raise UserError(f"this network cannot be pruned: torch-pruning could not trace it ({error})") from error
        self.couplings = [c for group in groups if (c := _coupling(self.graph, group)) is not None]
        if not self.couplings:
            raise UserError("this network cannot be pruned: every channel of it reaches the output unmixed")
        places = _places(model, example)
        layers: dict[int, _Layer] = {}
        self.links: list[list[tuple[_Layer, int, int]]] = []
        for coupling in self.couplings:
            for touch in coupling.touches:
                if id(touch.layer) not in layers:
                    layers[id(touch.layer)] = _Layer(touch.layer, places.get(touch.layer, 1))
            self.links.append([(layers[id(t.layer)], t.side, t.channels) for t in coupling.touches])
        self._layers = list(layers.values())
        whole = count(model, (example.shape[1], example.shape[2], example.shape[3]))
        self._fixed = whole - self._sum(self._layers)

    def sizes(self) -> list[int]:
        """How many units each coupling has."""
        return [len(coupling) for coupling in self.couplings]

    def size(self, kept: list[int]) -> Count:
        """The whole network's size if coupling i keeps `kept[i]` units."""
        self.reset()
        for i, (size, keep) in enumerate(zip(self.sizes(), kept, strict=True)):
            self.remove(i, size - keep)
        total = self._fixed + self._sum(self._layers)
        self.reset()
        return total

    def reset(self) -> None:
        """Forget every `remove`."""
        for layer in self._layers:
            layer.left = list(layer.full)

    def remove(self, i: int, units: int) -> Count:
        """Take `units` units of coupling i away (put them back if negative): what this saves."""
        layers = list({id(layer): layer for layer, _, _ in self.links[i]}.values())
        before = self._sum(layers)
        for layer, side, channels in self.links[i]:
            layer.left[side] -= units * channels
        return before - self._sum(layers)

    def neighbours(self) -> list[set[int]]:
        """For each coupling, those whose costs change with its width (itself among them)."""
        owners: dict[int, set[int]] = {}
        for i, links in enumerate(self.links):
            for layer, _, _ in links:
                owners.setdefault(id(layer), set()).add(i)
        return [set().union(*(owners[id(layer)] for layer, _, _ in links)) for links in self.links]

    @staticmethod
    def _sum(layers: list[_Layer]) -> Count:
        sizes = [layer.size() for layer in layers]
        return Count(sum(params for params, _ in sizes), sum(macs for _, macs in sizes))

    def cut(self, kept: list[Tensor]) -> None:
        """Prune the model itself, in place: coupling i keeps its units `kept[i]` (int64 indices)."""
        for coupling, keep in zip(self.couplings, kept, strict=True):
            gone = torch.ones(len(coupling), dtype=torch.bool)
            gone[keep] = False
            channels = sorted(coupling.units[gone].flatten().tolist())
            if channels:
                coupling.group.prune(channels, record_history=False)


class _Layer:
    """A layer's size as a function of the channels left on its two sides.

    `places` is at how many places of the feature map its weights are used: a multiply-add is counted as torchinfo
    counts it, each parameter of a convolution once a place, any other once.
    """

    def __init__(self, module: Any, places: int) -> None:
        self.places = places
        if isinstance(module, nn.Parameter):
            self.full = [max(module.shape), 1]
            self.terms = [(module.numel(), True, False)]
        else:
            crossed = isinstance(module, nn.Conv2d | nn.Linear) and not _depthwise(module)
            weight = getattr(module, "weight", None)
            self.full = [1, 1]
            if crossed:
                self.full = [module.weight.shape[0], _inputs(module)]
            elif weight is not None:
                self.full = [weight.shape[0], 1]
            self.terms = [(p.numel(), True, crossed and p.dim() > 1) for p in module.parameters(recurse=False)]
        self.left = list(self.full)

    def size(self) -> tuple[int, int]:
        """Parameters and multiply-adds."""
        params = 0
        for numel, by_out, by_in in self.terms:
            if by_out:
                numel = numel * self.left[0] // self.full[0]
            if by_in:
                numel = numel * self.left[1] // self.full[1]
            params += numel
        return params, params * self.places


def _places(model: nn.Module, example: Tensor) -> dict[nn.Module, int]:
    """Height times width of what each convolution puts out."""
    found: dict[nn.Module, int] = {}
    hooks = [
        module.register_forward_hook(lambda m, _, out: found.__setitem__(m, out.shape[2] * out.shape[3]))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            model(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _coupling(graph: Any, group: Any) -> Coupling | None:
    """A torch-pruning group as units and touches, or None if the network's own output is among its channels."""
    root = group[0].dep.target.module
    channels = len(group[0].idxs)
    together = 1
    links: list[tuple[Any, int, int]] = []
    for dep, idxs in group:
        module = dep.target.module
        inward = graph.is_in_channel_pruning_fn(dep.handler) and not graph.is_out_channel_pruning_fn(dep.handler)
        if not inward and not dep.target.outputs:  # nothing reads it: these channels are the logits
            return None
        if isinstance(module, nn.Conv2d) and module.groups > 1 and not _depthwise(module):
            together = max(together, module.groups)
        if isinstance(module, nn.Module | nn.Parameter) and _has_parameters(module):
            links.append((module, int(inward), len(idxs)))
    units = torch.arange(channels).reshape(together, -1).T.contiguous()
    return Coupling(root, group, units, tuple(Touch(m, side, n // len(units)) for m, side, n in links))


def _has_parameters(module: Any) -> bool:
    return isinstance(module, nn.Parameter) or any(True for _ in module.parameters(recurse=False))


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.out_channels and module.groups > 1


def _inputs(module: nn.Conv2d | nn.Linear) -> int:
    return module.in_channels if isinstance(module, nn.Conv2d) else module.in_features
