"""Snapshots of a network and its dependency graph, to try cuts and take them back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def take_snapshot(model: nn.Module, graph: Any) -> Callable[[], None]:
    """Return a function that undoes all cuts made to `model` and `graph` from now on, in place.

    It may be called many times, and costs much less than to trace the network again.

    Args:
        graph: torch-pruning's dependency graph of `model`.
    """
    nodes = {node: node.module for node in graph.module2node.values()}
    # Splits and concatenations keep the sizes of their parts in modules of the graph.
    modules = {*model.modules(), *(m for m in nodes.values() if isinstance(m, nn.Module))}
    states = {module: _copy_state(module) for module in modules}
    values = {parameter: parameter.detach().clone() for parameter in model.parameters()}
    mappings = {name: dict(getattr(graph, name)) for name in ("module2node", "_param_to_name")}

    @torch.no_grad()
    def restore() -> None:
        for module, state in states.items():
            vars(module).clear()
            vars(module).update({key: _copy_container(value) for key, value in state.items()})
        for parameter, value in values.items():
            parameter.copy_(value)
        for name, mapping in mappings.items():
            getattr(graph, name).clear()
            getattr(graph, name).update(mapping)
        for node, module in nodes.items():
            node.module = module

    return restore


def _copy_state(module: nn.Module) -> dict[str, Any]:
    return {key: _copy_container(value) for key, value in vars(module).items()}


def _copy_container(value: Any) -> Any:
    """Copy lists and dictionaries, which are changed in place; share everything else."""
    return type(value)(value) if type(value) in (list, dict) else value
