"""Channel groups: channels of several layers that can only be removed together.

Removing an output channel of one layer removes an input channel of every layer that reads it and,
through additions and concatenations, channels of further layers. torch-pruning's dependency graph
(Fang et al. 2023, "DepGraph", arXiv:2301.12900) finds these groups.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from compress.pruning.graph import build_graph
from compress.pruning.layer_cost import get_in_channels, has_parameters, mixes_channels
from compress.pruning.torch_pruning_patches import patch_for_tracing
from compress.runtime.errors import UserError, one_line

OUTPUT, INPUT = 0, 1


@dataclass(frozen=True)
class GroupMember:
    """One side of a layer in a channel group.

    Args:
        layer: a module, or a parameter outside of the modules that torch-pruning knows.
        side: `OUTPUT` or `INPUT`.
        channels: channels that the layer loses on this side when one unit of the group is removed.
    """

    layer: Any
    side: int
    channels: int


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can only be removed together.

    A unit is the smallest part of a group that can be removed: usually one channel of the root
    layer, or one of each group of a grouped convolution.

    Args:
        name: name of the root layer.
        tp_group: torch-pruning's group, with all of its channels.
        units: channels of the root layer in each unit, (units, channels per unit), int64.
        members: the layers that lose channels.
        output_layers: names of the layers that lose output channels.
    """

    name: str
    tp_group: Any
    units: Tensor
    members: tuple[GroupMember, ...]
    output_layers: frozenset[str]

    def __len__(self) -> int:
        return len(self.units)


@dataclass(frozen=True)
class Trace:
    """The channel groups of a model.

    Args:
        graph: torch-pruning's dependency graph.
        groups: the groups whose channels can be removed.
        unresolved_layers: names of the layers whose groups torch-pruning cannot determine.
    """

    graph: Any
    groups: list[ChannelGroup]
    unresolved_layers: list[str]


def trace_channel_groups(model: nn.Module, example: Tensor) -> Trace:
    """Trace `model` on `example` (B, C, H, W) and find its channel groups.

    Raises:
        UserError: torch-pruning cannot trace this network; the message names the layer.
    """
    names: dict[Any, str] = {
        parameter: name.rpartition(".")[0] for name, parameter in model.named_parameters()
    }
    names |= {module: name for name, module in model.named_modules()}
    try:
        with warnings.catch_warnings(), torch.enable_grad(), patch_for_tracing(model):
            warnings.simplefilter("ignore")
            graph, opaque = build_graph(model, example)
            avoided = opaque | find_tied_layers(model)
            unresolved: list[str] = []
            tp_groups = list(_find_tp_groups(graph, names, avoided, unresolved))
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"this network cannot be pruned: torch-pruning cannot trace it ({one_line(error)})"
        ) from error
    made = (_make_channel_group(graph, tp_group, names) for tp_group in tp_groups)
    return Trace(graph, [group for group in made if group is not None], unresolved)


def is_input_removal(graph: Any, dependency: Any) -> bool:
    """Return True if `dependency` removes input channels of a layer, and no output channels."""
    handler = dependency.handler
    return graph.is_in_channel_pruning_fn(handler) and not graph.is_out_channel_pruning_fn(handler)


def find_tied_layers(model: nn.Module) -> set[Any]:
    """Return the modules that share a parameter with another module, and these parameters.

    Their channels cannot be removed from one of them alone.
    """
    owners: dict[nn.Parameter, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(parameter, []).append(module)
    tied = {parameter: found for parameter, found in owners.items() if len(found) > 1}
    return {*tied, *(module for found in tied.values() for module in found)}


def _find_tp_groups(
    graph: Any, names: dict[Any, str], avoided: set[Any], unresolved: list[str]
) -> Iterator[Any]:
    """Yield torch-pruning's groups, each with all of its channels.

    Groups that torch-pruning cannot determine, or that contain one of the modules `avoided`, are
    skipped, and the names of their root layers are added to `unresolved`.
    """
    seen: set[nn.Module] = set()
    for module in [m for m in graph.module2node if isinstance(m, _ConvNd | nn.Linear)]:
        pruner = graph.get_pruner_of_module(module)
        if module in seen or pruner is None:
            continue
        # The weight of a transposed convolution has its sides swapped.
        if isinstance(module, _ConvTransposeNd) or _has_computed_weight(module):
            unresolved.append(names.get(module, "?"))
            continue
        try:
            tp_group = graph.get_pruning_group(
                module, pruner.prune_out_channels, list(range(module.weight.shape[0]))
            )
        # torch-pruning may raise anything where it loses track of channels.
        except Exception:
            tp_group = None
        if tp_group is None or not _is_consistent(graph, tp_group, avoided):
            unresolved.append(names.get(module, "?"))
            continue
        seen |= {dep.target.module for dep in _output_dependencies(graph, tp_group)}
        yield tp_group


def _output_dependencies(graph: Any, tp_group: Any) -> list[Any]:
    return [dep for dep, _ in tp_group if graph.is_out_channel_pruning_fn(dep.handler)]


def _is_consistent(graph: Any, tp_group: Any, avoided: set[Any]) -> bool:
    """Return True if every layer has the channels that it would lose, each equally often."""
    units = len(tp_group[0].idxs) // _count_common_partitions(tp_group) or 1
    for dep, idxs in tp_group:
        module = dep.target.module
        if module in avoided or isinstance(module, nn.RNNBase) or _has_computed_weight(module):
            return False
        if mixes_channels(module) and len(idxs) % units:
            return False
        reads = is_input_removal(graph, dep) and mixes_channels(module)
        if reads and max(idxs) >= get_in_channels(module):
            return False
    return _can_be_scored(tp_group)


def _has_computed_weight(module: Any) -> bool:
    """Return True if the weight is computed from other tensors, as by spectral_norm.

    It can be neither scored by its gradient nor cut.
    """
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and not isinstance(weight, nn.Parameter)


def _can_be_scored(tp_group: Any) -> bool:
    """Return True if torch-pruning can score the group: its indices fit its tensors."""
    try:
        scores = tp.importance.GroupMagnitudeImportance()(tp_group)
    except Exception:
        return False
    return scores is None or len(scores) == len(tp_group[0].idxs)


def _make_channel_group(graph: Any, tp_group: Any, names: dict[Any, str]) -> ChannelGroup | None:
    """Return `tp_group` as units and members, or None if the logits are among its channels."""
    root = tp_group[0].dep.target.module
    channels = len(tp_group[0].idxs)
    partitions = _count_common_partitions(tp_group)
    losses: list[tuple[Any, int, int]] = []
    for dep, idxs in tp_group:
        module = dep.target.module
        side = INPUT if is_input_removal(graph, dep) else OUTPUT
        # Channels that no layer reads are the logits.
        if side == OUTPUT and not dep.target.outputs:
            return None
        if isinstance(module, nn.Module | nn.Parameter) and has_parameters(module):
            losses.append((module, side, len(idxs)))
    if channels % partitions:
        return None
    units = torch.arange(channels).reshape(partitions, -1).T.contiguous()
    outputs = (names.get(dep.target.module) for dep in _output_dependencies(graph, tp_group))
    return ChannelGroup(
        name=names.get(root, "?"),
        tp_group=tp_group,
        units=units,
        members=tuple(GroupMember(layer, side, n // len(units)) for layer, side, n in losses),
        output_layers=frozenset(name for name in outputs if name),
    )


def _count_common_partitions(tp_group: Any) -> int:
    return math.lcm(*(_count_partitions(dep.target.module) for dep, _ in tp_group))


def _count_partitions(module: Any) -> int:
    """Count the equal parts into which a layer divides its channels.

    A unit takes one channel of each.
    """
    if isinstance(module, nn.MultiheadAttention):
        return int(module.num_heads)
    if isinstance(module, nn.GroupNorm):
        return int(module.num_groups)
    if isinstance(module, nn.Conv2d) and mixes_channels(module):
        return int(module.groups)
    if isinstance(module, tp.ops._SplitOp) and module.split_sizes:
        return len(module.split_sizes)
    return 1
