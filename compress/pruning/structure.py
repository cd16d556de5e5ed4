"""What can be removed from a network, and what is left of it then: its size is known for any choice of widths before a
single tensor is cut, and the cut is checked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from compress.models.cost import measure_cost
from compress.pruning.groups import inward, trace
from compress.pruning.layer_cost import Layer, crossed, places
from compress.recipe.budget import Cost
from compress.runtime.device import full_precision
from compress.runtime.errors import UserError, one_line


class Misread(UserError):
    """What was cut is not what torch-pruning takes it for: some couplings are not those of the network."""


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
        self.model, self.example, self.leave = model.eval(), example, tuple(leave)
        check_answer(model, example)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        self.graph, found, self.lost = trace(model, example)
        self.couplings = [coupling for coupling in found if coupling.name not in self.leave]
        used = places(model, example)
        unseen = [
            name
            for name, m in model.named_modules()
            if m in used and crossed(m) and m not in self.graph.module2node
        ]
        self.lost += unseen
        if not self.couplings and self.lost:
            lost = ", ".join(self.lost[:3])
            why = ", which runs without gradients, as under torch.no_grad()" if unseen else ""
            raise UserError(
                f"this network cannot be pruned: torch-pruning cannot follow the channels of layer {lost}{why}"
            )
        if not self.couplings:
            raise UserError(
                "this network cannot be pruned: every channel of it reaches the output unmixed"
            )
        layers: dict[int, Layer] = {}
        self.links: list[list[tuple[Layer, int, int]]] = []
        for coupling in self.couplings:
            for touch in coupling.touches:
                if id(touch.layer) not in layers:
                    dim = self.graph.module2node[touch.layer].pruning_dim
                    layers[id(touch.layer)] = Layer(touch.layer, used[touch.layer], dim)
            self.links.append([(layers[id(t.layer)], t.side, t.channels) for t in coupling.touches])
        self._layers = list(layers.values())
        self._touched = [
            list(dict.fromkeys(layer for layer, _, _ in links)) for links in self.links
        ]
        self.input_size = (example.shape[1], example.shape[2], example.shape[3])
        self._fixed = measure_cost(model, self.input_size) - self._sum(self._layers)

    def sizes(self) -> list[int]:
        """How many units each coupling has."""
        return [len(coupling) for coupling in self.couplings]

    def size(self, kept: list[int]) -> Cost:
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

    def remove(self, i: int, units: int) -> Cost:
        """Take `units` units of coupling i away (put them back if negative): what this saves."""
        before = self._sum(self._touched[i])
        for layer, side, channels in self.links[i]:
            layer.left[side] -= units * channels
        return before - self._sum(self._touched[i])

    def saving(self, i: int, units: int) -> Cost:
        """What taking `units` units of coupling i away would save."""
        saved = self.remove(i, units)
        for layer, side, channels in self.links[i]:
            layer.left[side] += units * channels
        return saved

    def neighbours(self) -> list[set[int]]:
        """For each coupling, those whose costs change with its width (itself among them)."""
        owners: dict[int, set[int]] = {}
        for i, links in enumerate(self.links):
            for layer, _, _ in links:
                owners.setdefault(id(layer), set()).add(i)
        return [set().union(*(owners[id(layer)] for layer, _, _ in links)) for links in self.links]

    @staticmethod
    def _sum(layers: list[Layer]) -> Cost:
        sizes = [layer.size() for layer in layers]
        return Cost(
            sum(s.params for s in sizes), sum(s.macs for s in sizes), sum(s.bytes for s in sizes)
        )

    def cut(self, kept: list[Tensor]) -> bool:
        """Prune the model itself, in place: coupling i keeps its units `kept[i]` (int64 indices).

        Channels are cut off from all that reads them first: then taking them out must not change what the network
        answers. Where it does, the couplings are not what torch-pruning takes them for.

        Returns:
            Whether this could be seen: a network may answer with infinite values while its norms are set aside. Then it
            is only known to run, and to be of the size due.

        Raises:
            Misread: what is left does not run, or is not the network without those channels, or not of the size due.
        """
        due = self.size([len(keep) for keep in kept])
        removals: list[tuple[Any, list[int]]] = []
        for coupling, keep in zip(self.couplings, kept, strict=True):
            gone = torch.ones(len(coupling), dtype=torch.bool)
            gone[keep.cpu()] = False
            if channels := sorted(coupling.units[gone].flatten().tolist()):
                removals.append((coupling.group, channels))
        probe = (
            torch.rand(2, *self.example.shape[1:], generator=torch.Generator().manual_seed(0)) * 2
            - 1
        )
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
            same = bool((after - before).abs().max() <= 0.002 * before.abs().max() + 1e-6)
        except Exception as error:  # a layer that is cut at the wrong place may do anything
            raise Misread(f"this network does not run after a cut ({one_line(error)})") from error
        seen = bool(torch.isfinite(before).all())
        if seen and not same:
            raise Misread("torch-pruning misreads which channels of this network hang together")
        left = measure_cost(self.model, self.input_size)
        if (left.params, left.macs) != (due.params, due.macs) or left.bytes > due.bytes:
            raise Misread("torch-pruning removes other channels of this network than it says")
        return seen

    @torch.no_grad()
    def _silence(self, group: Any, channels: list[int]) -> None:
        """Let no layer read these channels of the group's root, or what else goes with them."""
        root = group[0].dep
        for dep, idxs in self.graph.get_pruning_group(root.target.module, root.handler, channels):
            module = dep.target.module
            if inward(self.graph, dep) and crossed(module):
                shares = module.weight.unflatten(
                    0, (getattr(module, "groups", 1), -1)
                )  # a group reads its own inputs
                gone = torch.tensor(idxs, device=shares.device)
                shares[gone // shares.shape[2], :, gone % shares.shape[2]] = 0


def check_answer(model: nn.Module, example: Tensor) -> None:
    """Refuse a model that is no classifier, or does not take such images."""
    try:
        with torch.no_grad():
            answer = model(example)
    except Exception as error:
        reason = one_line(error)
        raise UserError(
            f"the model does not run on images of shape {tuple(example.shape)}: {reason}"
        ) from error
    if not isinstance(answer, Tensor) or answer.dim() != 2 or len(answer) != len(example):
        found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise UserError(
            f"the model is not a classifier: it answers {found} where ({len(example)}, classes) was due"
        )
    if not bool(torch.isfinite(answer).all()):
        raise UserError(
            "the model answers with values that are not finite: look for such values in its weights"
        )


@torch.no_grad()
def _without_norms(model: nn.Module, images: Tensor) -> Tensor:
    """What the model answers if layers that mix all their channels pass on what they get."""
    mixing = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
    hooks = [
        m.register_forward_hook(lambda _, x, y: x[0])
        for m in model.modules()
        if isinstance(m, mixing)
    ]
    attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    hooks += [m.register_forward_hook(lambda _, x, y: (x[0], None)) for m in attentions]
    try:
        with full_precision():  # widths decide how a GPU rounds otherwise
            return model(images).float()  # type: ignore[no-any-return]
    finally:
        for hook in hooks:
            hook.remove()
