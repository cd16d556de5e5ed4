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
            graph = tp.DependencyGraph().build_dependency(
                model, example, _run_forward, verbose=False
            )
            _check_slices(graph, names)
            unresolved: list[str] = []
            tp_groups = list(_find_tp_groups(graph, names, unresolved))
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


def _run_forward(model: nn.Module, images: Tensor) -> Any:
    """Run `model` for torch-pruning. If it raises, name the last layer that was reached."""
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
            f"this network cannot be pruned: tracing fails in or after layer {reached[-1]!r}"
            f" ({one_line(error)})"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _check_slices(graph: Any, names: dict[Any, str]) -> None:
    """Refuse networks that slice token sequences: torch-pruning may never return from them."""
    for node in graph.module2node.values():
        if _is_untraceable_slice(node):
            raise UserError(
                "this network cannot be pruned: the output of layer"
                f" {_find_source_layer(node, names)!r} is sliced, as in windowed attention"
            )


def _is_untraceable_slice(node: Any) -> bool:
    """Return True for a split or slice at which torch-pruning loses track of channels."""
    if node.type not in (tp.ops.OPTYPE.SPLIT, tp.ops.OPTYPE.SLICE):
        return False
    dim, dims = node.grad_fn._saved_dim, len(node.grad_fn._saved_self_sym_sizes)
    # Slices of maps are followed along every dimension but the channels.
    if node.type == tp.ops.OPTYPE.SLICE:
        return not (dims == 4 and dim in (0, 2, 3))
    # autograd saves dimensions unsigned: -1 is 2**64 - 1.
    return bool((dim - 2**64 if dim >= 2**63 else dim) % dims != 1)


def _find_source_layer(node: Any, names: dict[Any, str]) -> str:
    """Return the name of the closest layer before `node`."""
    seen, queue = {node}, [node]
    while queue:
        node = queue.pop(0)
        if name := names.get(node.module):
            return name
        sources = [source for source in node.inputs if source not in seen]
        seen.update(sources)
        queue += sources
    return "?"


def _find_tp_groups(graph: Any, names: dict[Any, str], unresolved: list[str]) -> Iterator[Any]:
    """Yield torch-pruning's groups, each with all of its channels.

    Groups that torch-pruning cannot determine are skipped, and the names of their root layers are
    added to `unresolved`.
    """
    seen: set[nn.Module] = set()
    for module in [m for m in graph.module2node if isinstance(m, _ConvNd | nn.Linear)]:
        pruner = graph.get_pruner_of_module(module)
        if module in seen or pruner is None:
            continue
        # The weight of a transposed convolution has its sides swapped. A weight that is computed
        # from other tensors, as by spectral_norm, cannot be cut.
        if isinstance(module, _ConvTransposeNd) or not isinstance(module.weight, nn.Parameter):
            unresolved.append(names.get(module, "?"))
            continue
        try:
            tp_group = graph.get_pruning_group(
                module, pruner.prune_out_channels, list(range(module.weight.shape[0]))
            )
        except IndexError:
            tp_group = None
        except Exception as error:
            raise UserError(
                "this network cannot be pruned: torch-pruning fails on the channel group of layer"
                f" {names.get(module, '?')!r} ({one_line(error)})"
            ) from error
        if tp_group is None or not _is_consistent(graph, tp_group):
            unresolved.append(names.get(module, "?"))
            continue
        seen |= {dep.target.module for dep in _output_dependencies(graph, tp_group)}
        yield tp_group


def _output_dependencies(graph: Any, tp_group: Any) -> list[Any]:
    return [dep for dep, _ in tp_group if graph.is_out_channel_pruning_fn(dep.handler)]


def _is_consistent(graph: Any, tp_group: Any) -> bool:
    """Return True if every layer has the channels that it would lose, each equally often."""
    channels = len(tp_group[0].idxs)
    for dep, idxs in tp_group:
        module = dep.target.module
        if isinstance(module, nn.RNNBase) or (mixes_channels(module) and len(idxs) % channels):
            return False
        reads = is_input_removal(graph, dep) and mixes_channels(module)
        if reads and max(idxs) >= get_in_channels(module):
            return False
    return True


def _make_channel_group(graph: Any, tp_group: Any, names: dict[Any, str]) -> ChannelGroup | None:
    """Return `tp_group` as units and members, or None if the logits are among its channels."""
    root = tp_group[0].dep.target.module
    channels = len(tp_group[0].idxs)
    partitions = 1
    losses: list[tuple[Any, int, int]] = []
    for dep, idxs in tp_group:
        module = dep.target.module
        side = INPUT if is_input_removal(graph, dep) else OUTPUT
        # Channels that no layer reads are the logits.
        if side == OUTPUT and not dep.target.outputs:
            return None
        partitions = math.lcm(partitions, _count_partitions(module))
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
    return 1
