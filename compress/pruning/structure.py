"""The prunable structure of a network: its cost at any widths, and verified cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from compress.models.cost import count_macs, measure_cost
from compress.models.plain_module import describe_computed_weights
from compress.pruning.clock import Clock, find_layers
from compress.pruning.groups import (
    ChannelGroup,
    find_tied_layers,
    is_input_removal,
    trace_channel_groups,
)
from compress.pruning.layer_cost import LayerCost, mixes_channels
from compress.pruning.verify import check_classifier, run_without_norms, same_logits
from compress.recipe.budget import Cost
from compress.runtime.errors import UserError, did_you_mean, one_line


class UnresolvedGroupError(UserError):
    """A cut showed that some channel groups are not those of the network."""


class Structure:
    """The channel groups of a model, and its cost as a function of the units that each group keeps.

    Args:
        model: a classifier that autograd can trace. It is set to evaluation mode, and its
            parameters to require gradients.
        example: one batch of input, (B, C, H, W).
        ignored_layers: names of modules whose output channels are not pruned; see `prune`.
        unresolved_groups: names of groups that torch-pruning is known to get wrong; they are not
            pruned either.
        clock: predicts the time of the network, where there is a budget on it.

    Attributes:
        groups: the groups that can be pruned.
        full_cost: the cost of the model before its cut.
        timed: True if costs include time.
        unresolved_layers: layers that are not pruned because torch-pruning cannot follow their
            channels.

    Raises:
        UserError: the model is not a classifier, torch-pruning cannot trace it, or no channel can
            be pruned.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        ignored_layers: Iterable[str] = (),
        unresolved_groups: Iterable[str] = (),
        clock: Clock | None = None,
    ) -> None:
        self.model, self.example = model.eval(), example
        self.timed = clock is not None
        self.ignored_layers = tuple(ignored_layers)
        self.unresolved_groups = tuple(unresolved_groups)
        check_classifier(model, example)
        _check_layer_names(model, self.ignored_layers)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        trace = trace_channel_groups(model, example)
        self.graph = trace.graph
        found = [group for group in trace.groups if group.name not in self.unresolved_groups]
        self.groups = [group for group in found if not _is_ignored(group, self.ignored_layers)]
        macs = count_macs(model, example[:1])
        detached = [
            name
            for name, module in model.named_modules()
            if module in macs.layers
            and mixes_channels(module)
            and module not in trace.graph.module2node
        ]
        self.unresolved_layers = [*trace.unresolved_layers, *detached]
        if not self.groups:
            raise UserError(self._explain_no_groups(bool(found), bool(detached)))
        self._link_layers(macs.layers, clock)
        # Products of two activations shrink with a cut, by an amount that is not predicted.
        attention = any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
        self._exact = not attention and macs.total == sum(macs.layers.values())
        self.input_size = (example.shape[1], example.shape[2], example.shape[3])
        self.full_cost = add_latency(measure_cost(model, self.input_size), model, clock)
        # The cost of everything that no group touches.
        self._fixed = self.full_cost - _sum_costs(self._layers)

    @property
    def uncut_layers(self) -> list[str]:
        """Names of the layers whose channel groups torch-pruning cannot resolve."""
        return [*self.unresolved_layers, *self.unresolved_groups]

    def unit_counts(self) -> list[int]:
        """Return the number of units of each group."""
        return [len(group) for group in self.groups]

    def predict_cost(self, kept: Sequence[int]) -> Cost:
        """Return the cost of the whole network if group i keeps `kept[i]` units."""
        self.reset()
        for i, (units, keep) in enumerate(zip(self.unit_counts(), kept, strict=True)):
            self.remove_units(i, units - keep)
        total = self._fixed + _sum_costs(self._layers)
        self.reset()
        return total

    def reset(self) -> None:
        """Undo every `remove_units`."""
        for layer in self._layers:
            layer.widths = list(layer.full_widths)

    def remove_units(self, i: int, units: int) -> Cost:
        """Count `units` units of group i as removed, or as restored if negative.

        Returns:
            The cost that is saved. The model itself stays as it is.
        """
        before = _sum_costs(self._layers_of[i])
        self._narrow(i, units)
        return before - _sum_costs(self._layers_of[i])

    def predict_saving(self, i: int, units: int) -> Cost:
        """Return the cost that `remove_units(i, units)` would save."""
        saved = self.remove_units(i, units)
        self._narrow(i, -units)
        return saved

    def find_neighbours(self) -> list[set[int]]:
        """Return, for each group, itself and all groups whose savings depend on its width."""
        owners: dict[int, set[int]] = {}
        for i, links in enumerate(self._links):
            for layer, _, _ in links:
                owners.setdefault(id(layer), set()).add(i)
        return [set().union(*(owners[id(layer)] for layer, _, _ in links)) for links in self._links]

    def prune(self, kept: list[Tensor]) -> bool:
        """Prune the model in place and verify the result.

        Before anything is removed, the layers that read the removed channels get zero weights for
        them. The removal itself must then leave the logits unchanged. If it does not,
        torch-pruning's groups are wrong.

        Args:
            kept: for each group, the indices of the units that stay, int64.

        Returns:
            True if the logits could be compared. They cannot if they are infinite with
            normalization layers bypassed; then only the cost is verified, and that the network
            runs.

        Raises:
            UnresolvedGroupError: the pruned network does not run, or its logits or its cost are not
                as predicted.
        """
        expected = self.predict_cost([len(keep) for keep in kept])
        removals = _list_removals(self.groups, kept)
        generator = torch.Generator().manual_seed(0)
        probe = torch.rand(2, *self.example.shape[1:], generator=generator) * 2 - 1
        probe = probe.to(self.example)
        # A layer that is cut in the wrong place may raise anything.
        try:
            for tp_group, channels in removals:
                self._silence(tp_group, channels)
            before = run_without_norms(self.model, probe)
            for tp_group, channels in removals:
                tp_group.prune(channels, record_history=False)
            # The forward pass of a vision transformer reshapes to this width.
            if isinstance(self.model, VisionTransformer):
                self.model.hidden_dim = self.model.conv_proj.out_channels
            after = run_without_norms(self.model, probe)
            same = same_logits(before, after)
            cost = measure_cost(self.model, self.input_size)
        except Exception as error:
            raise UnresolvedGroupError(
                f"the network does not run after a cut ({one_line(error)})"
            ) from error
        comparable = bool(torch.isfinite(before).all())
        if comparable and not same:
            raise UnresolvedGroupError("a cut changes logits that it should leave unchanged")
        as_predicted = cost.params == expected.params and (
            cost.macs == expected.macs if self._exact else cost.macs <= expected.macs
        )
        if not as_predicted or cost.bytes > expected.bytes:
            raise UnresolvedGroupError("a cut removes more or fewer channels than predicted")
        return comparable

    def _link_layers(self, macs: Counter[nn.Module], clock: Clock | None) -> None:
        """Create one `LayerCost` for each layer, shared by all groups that it belongs to."""
        layers: dict[int, LayerCost] = {}
        times: dict[Any, Callable[[int, int], int]] = {}
        if clock is not None:
            found = find_layers(self.model, self.example)
            times = {module: partial(clock.layer_time, each) for module, each in found.items()}
        self._links: list[list[tuple[LayerCost, int, int]]] = []
        for group in self.groups:
            for member in group.members:
                if id(member.layer) not in layers:
                    dim = self.graph.module2node[member.layer].pruning_dim
                    time = times.get(member.layer)
                    layer = LayerCost(member.layer, macs[member.layer], dim, time)
                    layers[id(member.layer)] = layer
            self._links.append([(layers[id(m.layer)], m.side, m.channels) for m in group.members])
        self._layers = list(layers.values())
        self._layers_of = [
            list(dict.fromkeys(layer for layer, _, _ in links)) for links in self._links
        ]

    def _narrow(self, i: int, units: int) -> None:
        for layer, side, channels in self._links[i]:
            layer.widths[side] -= units * channels

    @torch.no_grad()
    def _silence(self, tp_group: Any, channels: list[int]) -> None:
        """Zero the weights that read `channels` of the group's root, or channels tied to them."""
        root = tp_group[0].dep
        for dep, idxs in self.graph.get_pruning_group(root.target.module, root.handler, channels):
            module = dep.target.module
            if is_input_removal(self.graph, dep) and mixes_channels(module):
                # Each part of a grouped convolution reads its own inputs.
                parts = module.weight.unflatten(0, (getattr(module, "groups", 1), -1))
                removed = torch.tensor(idxs, device=parts.device)
                parts[removed // parts.shape[2], :, removed % parts.shape[2]] = 0

    def _explain_no_groups(self, ignored: bool, detached: bool) -> str:
        if ignored:
            return (
                "this network cannot be pruned: ignored_layers leaves nothing to prune; name fewer"
            )
        if self.unresolved_layers:
            layers = ", ".join(self.unresolved_layers[:3])
            why = ", which runs without gradients, as under torch.no_grad()" if detached else ""
            names = {module: name for name, module in self.model.named_modules()}
            tied = sorted(names[m] for m in find_tied_layers(self.model) if m in names)
            if tied and not detached:
                why = f", as {' and '.join(tied)} share a parameter"
            if computed := describe_computed_weights(self.model):
                why = f"; {computed}"
            return (
                "this network cannot be pruned: torch-pruning cannot follow the channels of layer"
                f" {layers}{why}"
            )
        return "this network cannot be pruned: all of its channels are logits or inputs"


def add_latency(cost: Cost, model: nn.Module, clock: Clock | None) -> Cost:
    """Return a cost with the predicted time of its network, if a clock predicts it."""
    return cost if clock is None else replace(cost, latency=clock.predict(model))


def _check_layer_names(model: nn.Module, names: Iterable[str]) -> None:
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            raise UserError(
                f"ignored_layers: this network has no layer {name!r}{did_you_mean(name, known)}"
            )


def _is_ignored(group: ChannelGroup, ignored_layers: Iterable[str]) -> bool:
    return any(
        layer == ignored or layer.startswith(f"{ignored}.")
        for ignored in ignored_layers
        for layer in group.output_layers
    )


def _list_removals(groups: list[ChannelGroup], kept: list[Tensor]) -> list[tuple[Any, list[int]]]:
    """Return the groups that lose channels, as torch-pruning's, and those of the root layer."""
    removals: list[tuple[Any, list[int]]] = []
    for group, keep in zip(groups, kept, strict=True):
        removed = torch.ones(len(group), dtype=torch.bool)
        removed[keep.cpu()] = False
        if channels := sorted(group.units[removed].flatten().tolist()):
            removals.append((group.tp_group, channels))
    return removals


def _sum_costs(layers: Iterable[LayerCost]) -> Cost:
    costs = [layer.predict_cost() for layer in layers]
    return Cost(
        sum(c.params for c in costs),
        sum(c.macs for c in costs),
        sum(c.bytes for c in costs),
        sum(c.latency for c in costs),
    )
