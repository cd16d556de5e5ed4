"""Which channels hang together: removing an output channel of one layer removes an input channel of every layer that
reads it, and, through additions and concatenations, channels of others still. torch-pruning's dependency graph (Fang et
al. 2023, "DepGraph", arXiv:2301.12900) finds these couplings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch_pruning.dependency import index_mapping
from torchvision.models import shufflenetv2

from compress.pruning.layer_cost import crossed, has_parameters, inputs
from compress.runtime.errors import UserError, one_line


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


def trace(model: nn.Module, example: Tensor) -> tuple[Any, list[Coupling], list[str]]:
    """torch-pruning's dependency graph of `model`, the couplings in it, and the layers whose channels it loses.

    Raises:
        UserError: torch-pruning cannot follow the channels of this network; the layer where they are lost is named.
    """
    names: dict[Any, str] = {
        what: name.rpartition(".")[0] for name, what in model.named_parameters()
    }
    names |= {what: name for name, what in model.named_modules()}
    try:
        with warnings.catch_warnings(), torch.enable_grad(), _traceable(model):
            warnings.simplefilter("ignore")
            graph = tp.DependencyGraph().build_dependency(model, example, _forward, verbose=False)
            if part := next((node for node in graph.module2node.values() if _lost(node)), None):
                after = _nearest(part, names)
                raise UserError(
                    f"this network cannot be pruned: after layer {after!r} it slices what comes out of it, as"
                    " windowed attention does"
                )
            lost: list[str] = []
            groups = list(_groups(graph, names, lost))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"this network cannot be pruned: torch-pruning could not trace it ({one_line(error)})"
        ) from error
    couplings = [c for group in groups if (c := _coupling(graph, group, names)) is not None]
    return graph, couplings, lost


def _forward(model: nn.Module, images: Tensor) -> Any:
    """What `model` answers, for torch-pruning to trace; where that goes wrong, the layer is named."""
    names = {module: name for name, module in model.named_modules() if not any(module.children())}
    reached = ["?"]
    hooks = [
        module.register_forward_pre_hook(lambda module, _: reached.append(names[module]))
        for module in names
    ]
    try:
        return model(images)
    except Exception as error:
        raise UserError(
            f"this network cannot be pruned: tracing it fails at layer {reached[-1]!r} or after it ({one_line(error)})"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _groups(graph: Any, names: dict[Any, str], lost: list[str]) -> Iterator[Any]:
    """torch-pruning's groups, each with all of its channels. One in which it loses its way is passed over, and its
    layer named in `lost`: those layers stay as they are."""
    seen: set[nn.Module] = set()
    for module in [m for m in graph.module2node if isinstance(m, _ConvNd | nn.Linear)]:
        pruner = graph.get_pruner_of_module(module)
        if module in seen or pruner is None:
            continue
        if isinstance(module, _ConvTransposeNd) or not isinstance(module.weight, nn.Parameter):
            lost.append(
                names.get(module, "?")
            )  # a weight of another shape, or made of others, as by spectral_norm
            continue
        try:
            group = graph.get_pruning_group(
                module, pruner.prune_out_channels, list(range(module.weight.shape[0]))
            )
        except IndexError:
            group = None
        except Exception as error:
            raise UserError(
                f"this network cannot be pruned: what hangs on layer {names.get(module, '?')!r} cannot be followed"
                f" ({one_line(error)})"
            ) from error
        if group is None or not _sound(graph, group):
            lost.append(names.get(module, "?"))
            continue
        seen |= {
            dep.target.module for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)
        }
        yield group


def _sound(graph: Any, group: Any) -> bool:
    """Whether every layer in the group takes as many of its channels, or some of them equally often, and has them."""
    channels = len(group[0].idxs)
    for dep, idxs in group:
        module = dep.target.module
        if isinstance(module, nn.RNNBase) or (crossed(module) and len(idxs) % channels):
            return False
        if inward(graph, dep) and crossed(module) and max(idxs) >= inputs(module):
            return False
    return True


def _coupling(graph: Any, group: Any, names: dict[Any, str]) -> Coupling | None:
    """A torch-pruning group as units and touches, or None if the network's own output is among its channels."""
    root = group[0].dep.target.module
    channels = len(group[0].idxs)
    together = 1
    links: list[tuple[Any, int, int]] = []
    for dep, idxs in group:
        module = dep.target.module
        reads = inward(graph, dep)
        if not reads and not dep.target.outputs:  # nothing reads it: these channels are the logits
            return None
        together = math.lcm(together, _shares(module))
        if isinstance(module, nn.Module | nn.Parameter) and has_parameters(module):
            links.append((module, int(reads), len(idxs)))
    if channels % together:
        return None
    units = torch.arange(channels).reshape(together, -1).T.contiguous()
    return Coupling(
        names.get(root, "?"),
        group,
        units,
        tuple(Touch(m, side, n // len(units)) for m, side, n in links),
    )


def inward(graph: Any, dep: Any) -> bool:
    """Whether the removal is of what a layer reads, and leaves what it puts out alone."""
    return graph.is_in_channel_pruning_fn(dep.handler) and not graph.is_out_channel_pruning_fn(
        dep.handler
    )


def _shares(module: Any) -> int:
    """Into how many equal shares a layer parts its channels: a unit takes one channel of each."""
    if isinstance(module, nn.MultiheadAttention):
        return int(module.num_heads)
    if isinstance(module, nn.GroupNorm):
        return int(module.num_groups)
    return int(module.groups) if crossed(module) and isinstance(module, nn.Conv2d) else 1


def _lost(node: Any) -> bool:
    """Whether torch-pruning loses track of channels here, and may never come to an end: parts of token sequences."""
    if node.type not in (tp.ops.OPTYPE.SPLIT, tp.ops.OPTYPE.SLICE):
        return False
    dim, sides = node.grad_fn._saved_dim, len(node.grad_fn._saved_self_sym_sizes)
    if (
        node.type == tp.ops.OPTYPE.SLICE
    ):  # it follows those of maps, along any side but the channels
        return not (sides == 4 and dim in (0, 2, 3))
    return bool(
        (dim - 2**64 if dim >= 2**63 else dim) % sides != 1
    )  # unsigned in autograd's notes: -1 is 2**64 - 1


@contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """What torch-pruning cannot follow in `model`, done so that it can, or ended.

    ShuffleNet's channels through a shuffle: traced without it, the couplings inside of branches are right; those across
    shuffles are not, and are found when they are cut (`Misread`). A PReLU with one slope for all channels: its slope
    passes for a layer of unknown width. Products of maps, flattened: their channels would be multiplied without end;
    more than any layer takes are not, and `_groups` leaves those couplings alone.
    """
    most = max(side for parameter in model.parameters() for side in parameter.shape)
    flatten = index_mapping._FlattenIndexMapping
    multiply = flatten.__call__

    def same_slope(module: nn.PReLU, images: Tensor) -> Tensor:
        return (
            F.leaky_relu(images) if module.num_parameters == 1 else F.prelu(images, module.weight)
        )

    def multiply_bounded(mapping: Any, channels: Any) -> Any:
        if not mapping.reverse and len(channels) * mapping._stride > most:
            raise IndexError("more channels than any layer takes")
        return multiply(mapping, channels)

    shuffle = mock.patch.object(shufflenetv2, "channel_shuffle", lambda images, groups: images)
    slope = mock.patch.object(nn.PReLU, "forward", same_slope)
    with shuffle, slope, mock.patch.object(flatten, "__call__", multiply_bounded):
        yield


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
