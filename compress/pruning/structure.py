"""What can be removed from a network: channels that hang together, and what each of them costs.

Removing an output channel of one layer removes an input channel of every layer that reads it, and, through
additions and concatenations, channels of others still. torch-pruning's dependency graph (Fang et al. 2023, "DepGraph",
arXiv:2301.12900) finds these couplings; here they are counted, so that the size of the network is known for any
choice of widths before a single tensor is cut.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torchvision.models import VisionTransformer, shufflenetv2

from compress.budget import Count
from compress.errors import UserError, one_line
from compress.summary import count


class Misread(UserError):
    """What was cut is not what torch-pruning takes it for: some couplings are not those of the network."""


@dataclass(frozen=True)
class Touch:
    """Removing one unit of a coupling takes `channels` channels from one side of `layer`."""

    layer: Any
    side: int  # 0: output, 1: input
    channels: int


@dataclass(frozen=True)
class Coupling:
    """Channels that can only be removed together. `units[i]` are the channels of unit i in the root layer, `name`."""

    name: str
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
        leave: names of the root layers of couplings that stay as they are.

    Raises:
        UserError: the network is no classifier, or torch-pruning cannot trace it, or finds nothing in it to prune.
    """

    def __init__(self, model: nn.Module, example: Tensor, leave: Iterable[str] = ()) -> None:
        self.model, self.example = model.eval(), example
        _check_answer(model, example)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        names: dict[Any, str] = {what: name for name, what in [*model.named_parameters(), *model.named_modules()]}
        try:
            with warnings.catch_warnings(), torch.enable_grad(), _unshuffled():
                warnings.simplefilter("ignore")
                self.graph = tp.DependencyGraph().build_dependency(model, (example,), verbose=False)
                if lost := next((node for node in self.graph.module2node.values() if _lost(node)), None):
                    after = _nearest(lost, names)
                    raise UserError(
                        f"this network cannot be pruned: after layer {after!r} it slices its features, as windowed"
                        " attention does"
                    )
                groups = list(_groups(self.graph))
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"this network cannot be pruned: torch-pruning could not trace it ({one_line(error)})"
            ) from error
        found = [c for group in groups if (c := _coupling(self.graph, group, names)) is not None]
        self.couplings = [coupling for coupling in found if coupling.name not in leave]
        if not self.couplings:
            raise UserError("this network cannot be pruned: every channel of it reaches the output unmixed")
        places = _places(model, example)
        layers: dict[int, _Layer] = {}
        self.links: list[list[tuple[_Layer, int, int]]] = []
        for coupling in self.couplings:
            for touch in coupling.touches:
                if id(touch.layer) not in layers:
                    dim = self.graph.module2node[touch.layer].pruning_dim
                    layers[id(touch.layer)] = _Layer(touch.layer, places[touch.layer], dim)
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
        return sum(sizes, Count(0, 0, 0))

    def cut(self, kept: list[Tensor]) -> None:
        """Prune the model itself, in place: coupling i keeps its units `kept[i]` (int64 indices).

        Channels are cut off from all that reads them first: then taking them out must not change what the network
        answers. Where it does, the couplings are not what torch-pruning takes them for.

        Raises:
            Misread: what is left does not run, or is not the network without those channels.
        """
        removals: list[tuple[Any, list[int]]] = []
        for coupling, keep in zip(self.couplings, kept, strict=True):
            gone = torch.ones(len(coupling), dtype=torch.bool)
            gone[keep.cpu()] = False
            if channels := sorted(coupling.units[gone].flatten().tolist()):
                removals.append((coupling.group, channels))
        probe = torch.rand(2, *self.example.shape[1:], generator=torch.Generator().manual_seed(0)) * 2 - 1
        probe = probe.to(self.example)
        try:
            for group, channels in removals:
                self._silence(group, channels)
            before = _without_norms(self.model, probe)
            for group, channels in removals:
                group.prune(channels, record_history=False)
            if isinstance(self.model, VisionTransformer):  # it reshapes to a width of its own
                self.model.hidden_dim = self.model.conv_proj.out_channels
            after = _without_norms(self.model, probe)
            same = bool((after - before).abs().max() <= 0.01 * before.abs().max() + 1e-6)
        except Exception as error:  # a layer that is cut at the wrong place may do anything
            raise Misread(f"this network does not run after a cut ({one_line(error)})") from error
        if not same and bool(torch.isfinite(before).all()):
            raise Misread("torch-pruning misreads which channels of this network hang together")

    @torch.no_grad()
    def _silence(self, group: Any, channels: list[int]) -> None:
        """Let no layer read these channels of the group's root, or what else goes with them."""
        root = group[0].dep
        for dep, idxs in self.graph.get_pruning_group(root.target.module, root.handler, channels):
            module = dep.target.module
            if _inward(self.graph, dep) and _crossed(module):
                shares = module.weight.unflatten(0, (getattr(module, "groups", 1), -1))  # a group reads its own inputs
                gone = torch.tensor(idxs, device=shares.device)
                shares[gone // shares.shape[2], :, gone % shares.shape[2]] = 0


class _Layer:
    """A layer's size as a function of the channels left on its two sides.

    `places` is how often torchinfo counts its parameters as multiply-adds; `dim` is the side of a bare parameter
    that channels are removed from.
    """

    def __init__(self, module: Any, places: int, dim: int) -> None:
        self.places = places
        self.terms: list[tuple[int, int, int]]  # a tensor's size, and how often it scales with each of the two sides
        if isinstance(module, nn.Parameter):
            self.full = [module.shape[dim], 1]
            self.terms = [(module.numel(), 1, 0)]
        elif isinstance(module, nn.MultiheadAttention):
            self.full = [module.embed_dim, 1]
            self.terms = [(p.numel(), sum(n % module.embed_dim == 0 for n in p.shape), 0) for p in module.parameters()]
        else:
            crossed, single = _crossed(module), module.weight.shape[0] == 1  # a PReLU may have one slope for all
            self.full = [module.weight.shape[0], _inputs(module) if crossed else 1]
            self.terms = [(p.numel(), not single, crossed and p.dim() > 1) for p in module.parameters(recurse=False)]
        self.left = list(self.full)
        self.width = module.dtype.itemsize if isinstance(module, nn.Parameter) else _itemsize(module)
        buffers = () if isinstance(module, nn.Parameter) else module.buffers(recurse=False)
        self.statistics = sum(b.nbytes for b in buffers if b.dim() == 1 and len(b) == self.full[0])  # of a batch norm

    def size(self) -> Count:
        """What the layer costs."""
        params = 0
        for numel, out_sides, in_sides in self.terms:
            left = self.left[0] ** out_sides * self.left[1] ** in_sides
            params += numel * left // (self.full[0] ** out_sides * self.full[1] ** in_sides)
        statistics = self.statistics * self.left[0] // self.full[0]
        return Count(params, params * self.places, params * self.width + statistics)


def _places(model: nn.Module, example: Tensor) -> Counter[Any]:
    """How often each layer's parameters are used on one image, as torchinfo counts it: for each place of what a
    convolution puts out, once for any other layer, and not at all for a parameter outside of a layer."""
    found: Counter[Any] = Counter()

    def add(module: nn.Module, _: Any, out: Tensor) -> None:
        found[module] += out.shape[0] * (math.prod(out.shape[2:]) if isinstance(module, nn.Conv2d) else 1)

    leaves = [m for m in model.modules() if _has_parameters(m) and not any(True for _ in m.children())]
    hooks = [module.register_forward_hook(add) for module in leaves]
    try:
        with torch.no_grad():
            model(example[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _check_answer(model: nn.Module, example: Tensor) -> None:
    try:
        with torch.no_grad():
            answer = model(example)
    except Exception as error:
        reason = one_line(error)
        raise UserError(f"the model does not run on images of shape {tuple(example.shape)}: {reason}") from error
    if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != len(example):
        found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise UserError(f"the model is not a classifier: it answers {found} where ({len(example)}, classes) was due")


@torch.no_grad()
def _without_norms(model: nn.Module, images: Tensor) -> Tensor:
    """What the model answers if layers that mix all their channels pass on what they get."""
    mixing = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
    hooks = [m.register_forward_hook(lambda _, x, y: x[0]) for m in model.modules() if isinstance(m, mixing)]
    attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    hooks += [m.register_forward_hook(lambda _, x, y: (x[0], None)) for m in attentions]
    try:
        return model(images).float()  # type: ignore[no-any-return]
    finally:
        for hook in hooks:
            hook.remove()


def _groups(graph: Any) -> Iterator[Any]:
    """torch-pruning's groups, each with all of its channels. One in which it loses its way is passed over: those layers
    stay as they are."""
    seen: set[nn.Module] = set()
    for module in [m for m in graph.module2node if isinstance(m, _ConvNd | nn.Linear)]:
        pruner = graph.get_pruner_of_module(module)
        if module in seen or pruner is None:
            continue
        try:
            group = graph.get_pruning_group(module, pruner.prune_out_channels, list(range(module.weight.shape[0])))
        except IndexError:
            continue
        seen |= {dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)}
        yield group


def _coupling(graph: Any, group: Any, names: dict[Any, str]) -> Coupling | None:
    """A torch-pruning group as units and touches, or None if the network's own output is among its channels."""
    root = group[0].dep.target.module
    channels = len(group[0].idxs)
    together = 1
    links: list[tuple[Any, int, int]] = []
    for dep, idxs in group:
        module = dep.target.module
        inward = _inward(graph, dep)
        if not inward and not dep.target.outputs:  # nothing reads it: these channels are the logits
            return None
        together = math.lcm(together, _shares(module))
        if isinstance(module, nn.Module | nn.Parameter) and _has_parameters(module):
            links.append((module, int(inward), len(idxs)))
    if channels % together:
        return None
    units = torch.arange(channels).reshape(together, -1).T.contiguous()
    return Coupling(names.get(root, "?"), group, units, tuple(Touch(m, side, n // len(units)) for m, side, n in links))


def _inward(graph: Any, dep: Any) -> bool:
    """Whether the removal is of what a layer reads, and leaves what it puts out alone."""
    return graph.is_in_channel_pruning_fn(dep.handler) and not graph.is_out_channel_pruning_fn(dep.handler)


def _shares(module: Any) -> int:
    """Into how many equal shares a layer parts its channels: a unit takes one channel of each."""
    if isinstance(module, nn.MultiheadAttention):
        return int(module.num_heads)
    if isinstance(module, nn.GroupNorm):
        return int(module.num_groups)
    return int(module.groups) if _crossed(module) and isinstance(module, nn.Conv2d) else 1


def _lost(node: Any) -> bool:
    """Whether torch-pruning loses track of channels here, and may never come to an end: parts of token sequences."""
    if node.type == tp.ops.OPTYPE.SPLIT:
        dim = node.grad_fn._saved_dim  # unsigned in autograd's notes: -1 is 2**64 - 1
        return bool((dim - 2**64 if dim >= 2**63 else dim) % len(node.grad_fn._saved_self_sym_sizes) != 1)
    return bool(node.type == tp.ops.OPTYPE.SLICE)


def _unshuffled() -> AbstractContextManager[Any]:
    """torch-pruning cannot follow ShuffleNet's channels through a shuffle. Traced without it, the couplings inside of
    branches are right; those across shuffles are not, and are found when they are cut (`Misread`)."""
    return mock.patch.object(shufflenetv2, "channel_shuffle", lambda images, groups: images)


def _nearest(node: Any, names: dict[Any, str]) -> str:
    """The name of the layer whose output comes to `node`."""
    seen, waiting = {node}, [node]
    while waiting:
        node = waiting.pop(0)
        if name := names.get(node.module):
            return name
        fresh = [before for before in node.inputs if before not in seen]
        seen.update(fresh)
        waiting += fresh
    return "?"


def _itemsize(module: nn.Module) -> int:
    return next(module.parameters(recurse=False)).dtype.itemsize


def _has_parameters(module: Any) -> bool:
    return isinstance(module, nn.Parameter) or any(True for _ in module.parameters(recurse=False))


def _crossed(module: Any) -> bool:
    """Whether each channel that comes out of the layer is made of many that go in."""
    depthwise = isinstance(module, nn.Conv2d) and module.groups == module.out_channels and module.groups > 1
    return isinstance(module, nn.Conv2d | nn.Linear) and not depthwise


def _inputs(module: nn.Conv2d | nn.Linear) -> int:
    return module.in_channels if isinstance(module, nn.Conv2d) else module.in_features
