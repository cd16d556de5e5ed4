"""How to land on a budget: remove, one at a time, the unit that is worth least for what it costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.pruning.importance import Loss, worths
from compress.pruning.structure import Structure
from compress.summary import Count, count

FLOOR = 4  # units: fewer than this in any layer, and next to nothing gets through it
COMFORT = 8  # units a layer keeps as long as the floors leave the choice of most of the budget


@dataclass(frozen=True)
class Limits:
    """What a network has to fit into: parameters, multiply-adds for one image, or both."""

    params: int | None = None
    macs: int | None = None

    def hold(self, size: Count) -> bool:
        """Whether a network of this size fits."""
        return self.use(size) <= 1

    def use(self, size: Count) -> float:
        """The largest share of a limit that `size` takes up."""
        return max(self.shares(size))

    def cost(self, size: Count) -> float:
        """What `size` takes up, the limits' shares added: the price of a unit where there are several limits."""
        return sum(self.shares(size))

    def shares(self, size: Count) -> list[float]:
        """The share of each limit that `size` takes up."""
        pairs = ((size.params, self.params), (size.macs, self.macs))
        return [taken / limit for taken, limit in pairs if limit is not None]

    def __str__(self) -> str:
        texts = (
            f"{self.params:,} parameters" if self.params is not None else "",
            f"{self.macs:,} multiply-adds" if self.macs is not None else "",
        )
        return " and ".join(text for text in texts if text)


def prune(
    model: nn.Module,
    example: Tensor,
    params: int | None = None,
    *,
    macs: int | None = None,
    importance: str = "magnitude",
    losses: Iterable[Loss] | None = None,
    whole: nn.Module | None = None,
    multiple: int = 1,
) -> nn.Module:
    """A copy of `model`, pruned by whole channels until it fits, by torchinfo's count.

    Args:
        model: images (B, C, H, W) to logits (B, classes). It is left as it was.
        example: one batch of input, (B, C, H, W); its values do not matter.
        params: the budget in parameters. The result never exceeds it, and lies below it by less than the
            smallest step that is left.
        macs: the budget in multiply-adds for one image; with both, both hold.
        importance: a name of `compress.pruning.importance.IMPORTANCES`.
        losses: what importances that need data measure on.
        whole: the network as it was before any pruning, if `model` has been pruned before; a layer that has
            lost much in earlier rounds is then spared in this one.
        multiple: widths stay multiples of this where the budget can be met so: processors are faster at 8 or 16.

    Raises:
        UserError: the budget is out of the model's reach, or the model cannot be pruned.
    """
    limits = Limits(params, macs)
    if params is None and macs is None:
        raise UserError("a budget is due: parameters, multiply-adds, or both")
    if min(limit for limit in (params, macs) if limit is not None) < 1:
        raise UserError(f"a budget of {limits} is out of reach: it must be 1 or more")
    model = copy.deepcopy(model)
    modes = {module: module.training for module in model.modules()}
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    structure = Structure(model, example)
    full = structure.size(structure.sizes())
    if limits.hold(full):
        raise UserError(f"nothing to prune: the budget is {limits} and the model has {full.params:,} and {full.macs:,}")
    worth = worths(importance, model, structure, losses)
    before = structure if whole is None else Structure(copy.deepcopy(whole), example)
    keep = widths(structure, worth, limits, before.sizes(), multiple)
    structure.cut([w.argsort(descending=True, stable=True)[:k] for w, k in zip(worth, keep, strict=True)])
    model.zero_grad(set_to_none=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(wanted[name])
    for module, training in modes.items():
        module.training = training
    counted = count(model, (example.shape[1], example.shape[2], example.shape[3]))
    if not limits.hold(counted):
        raise UserError(f"this network cannot be pruned to {limits}: torchinfo counts {counted} after the cut")
    return model


def least(model: nn.Module, example: Tensor) -> Count:
    """The smallest size that pruning `model` can reach: every layer at its floor."""
    structure = Structure(copy.deepcopy(model), example)
    return structure.size(_floors(structure, FLOOR))


def widths(structure: Structure, worth: list[Tensor], limits: Limits, whole: list[int], multiple: int) -> list[int]:
    """How many units each coupling keeps, so that the network fits into `limits`.

    The unit to go is the one of least worth for what it costs. Worth is a unit's own score times the square of how
    far its layer has been narrowed, from the `whole` units that it had before any pruning: what few channels are
    left carry what all of them carried before. The square is the least that keeps a balance: parameters are products
    of two layers' widths, and with less than that one of the two is starved to feed the other.

    Units go by `multiple` at a time as long as they can. At the end those that still fit into the room that is left
    come back, the most worthy first, one by one if need be.
    """
    sizes = structure.sizes()
    floors = _comfortable_floors(structure, limits)
    ranked = [w.sort().values.tolist() for w in worth]  # removal goes from the front
    neighbours = structure.neighbours()
    kept, total = list(sizes), structure.size(sizes)

    def value(i: int, width: int, units: int) -> float:
        """What the last `units` units are worth of the `width` that coupling i has."""
        scores = ranked[i][sizes[i] - width : sizes[i] - width + units]
        return float(sum(scores)) * (whole[i] / width) ** 2

    def step(i: int, units: int) -> int:
        """How many go from coupling i at once, so that a multiple of `units` is left."""
        return kept[i] % units or units

    def price(i: int, most: int) -> float:
        units = step(i, most)
        if kept[i] - units < floors[i]:
            return float("inf")
        saved = structure.remove(i, units)
        structure.remove(i, -units)
        return value(i, kept[i], units) / max(limits.cost(saved), 1e-12)

    for units in (multiple, 1) if multiple > 1 else (1,):  # whole multiples as far as they go
        prices = [price(i, units) for i in range(len(sizes))]
        while not limits.hold(total) and min(prices) < float("inf"):
            i = min(range(len(sizes)), key=prices.__getitem__)
            gone = step(i, units)
            total -= structure.remove(i, gone)
            kept[i] -= gone
            for j in neighbours[i]:
                prices[j] = price(j, units)

    for units in (multiple, 1) if multiple > 1 else (1,):
        while True:  # give back what fits
            fitting = []
            for i, (size, keep) in enumerate(zip(sizes, kept, strict=True)):
                if keep + units <= size and (units == 1 or keep % units == 0):
                    more = structure.remove(i, -units)
                    structure.remove(i, units)
                    if limits.hold(total - more):  # `more` is negative: putting back saves less than nothing
                        fitting.append((value(i, keep + units, units) / -limits.cost(more), i))
            if not fitting:
                break
            _, i = max(fitting)
            total -= structure.remove(i, -units)
            kept[i] += units
    structure.reset()
    return kept


def _floors(structure: Structure, units: int) -> list[int]:
    return [min(size, units) for size in structure.sizes()]


def _comfortable_floors(structure: Structure, limits: Limits) -> list[int]:
    """The highest floors, between FLOOR and COMFORT, that by themselves take no more than half of the budget."""
    lowest = structure.size(_floors(structure, FLOOR))
    if not limits.hold(lowest):
        least = f"{lowest.params:,} parameters and {lowest.macs:,} multiply-adds"
        raise UserError(f"a budget of {limits} is out of reach: the least for this network is {least}")
    for units in range(COMFORT, FLOOR, -1):
        if limits.use(structure.size(_floors(structure, units))) <= 0.5:
            return _floors(structure, units)
    return _floors(structure, FLOOR)


def reestimate_batchnorm(model: nn.Module, forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> None:
    """Measure the running statistics of every batch norm of `model` anew: `forward` runs it on batches of images.

    A cut changes what flows into each normalization; its old mean and variance describe a network that is gone.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    model.train()
    with torch.no_grad():
        for images in batches:
            forward(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(training)
