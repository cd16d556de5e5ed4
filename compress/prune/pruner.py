"""How to land on a budget: remove, one at a time, the unit that is worth least for the parameters it costs."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compress.errors import UserError
from compress.prune.importance import Loss, worths
from compress.prune.structure import Structure
from compress.summary import count

FLOOR = 4  # units: fewer than this in any layer, and next to nothing gets through it
COMFORT = 8  # units a layer keeps as long as the floors leave the choice of most of the budget


def prune(
    model: nn.Module,
    example: Tensor,
    params: int,
    *,
    importance: str = "magnitude",
    losses: Iterable[Loss] | None = None,
) -> nn.Module:
    """A copy of `model`, pruned by whole channels until torchinfo counts at most `params` parameters.

    Args:
        model: images (B, C, H, W) to logits (B, classes). It is left as it was.
        example: one batch of input, (B, C, H, W); its values do not matter.
        params: the budget. The result never exceeds it, and lies below it by less than the smallest step left.
        importance: a name of `compress.prune.IMPORTANCES`.
        losses: what importances that need data measure on.

    Raises:
        UserError: the budget is out of the model's reach, or the model cannot be pruned.
    """
    model = copy.deepcopy(model)
    training = model.training
    structure = Structure(model, example)
    full = structure.params(structure.sizes())
    if params >= full:
        raise UserError(f"nothing to prune: the budget is {params:,} parameters and the model has {full:,}")
    worth = worths(importance, model, structure, losses)
    keep = widths(structure, worth, params)
    structure.cut([w.argsort(descending=True, stable=True)[:k] for w, k in zip(worth, keep, strict=True)])
    model.zero_grad(set_to_none=True)
    model.train(training)
    counted = count(model, (example.shape[1], example.shape[2], example.shape[3])).params
    if counted > params:
        raise UserError(f"this network cannot be pruned: {params:,} parameters were due, torchinfo counts {counted:,}")
    return model


def least(model: nn.Module, example: Tensor) -> int:
    """The fewest parameters that pruning `model` can reach: every layer at its floor."""
    structure = Structure(copy.deepcopy(model), example)
    return structure.params(_floors(structure, FLOOR))


def widths(structure: Structure, worth: list[Tensor], params: int) -> list[int]:
    """How many units each coupling keeps, so that the network has at most `params` parameters.

    The unit to go is the one of least worth per parameter saved. Worth is a unit's own score times how far its
    layer has been narrowed already: what few channels are left carry what all of them carried before. At the end
    the units that still fit into the room that is left come back, the most worthy first.
    """
    sizes = structure.sizes()
    floors = _comfortable_floors(structure, params)
    ranked = [w.sort().values.tolist() for w in worth]  # removal goes from the front
    neighbours = structure.neighbours()
    kept, total = list(sizes), structure.params(sizes)

    def price(i: int) -> float:
        if kept[i] <= floors[i]:
            return float("inf")
        saved = structure.remove(i, 1)
        structure.remove(i, -1)
        return float(ranked[i][sizes[i] - kept[i]] * sizes[i] / kept[i] / max(saved, 1))

    structure.reset()
    prices = [price(i) for i in range(len(sizes))]
    while total > params:
        i = min(range(len(sizes)), key=prices.__getitem__)
        total -= structure.remove(i, 1)
        kept[i] -= 1
        for j in neighbours[i]:
            prices[j] = price(j)

    while True:  # give back what fits
        fitting = []
        for i, (size, keep) in enumerate(zip(sizes, kept, strict=True)):
            if keep < size:
                cost = -structure.remove(i, -1)
                structure.remove(i, 1)
                if total + cost <= params:
                    fitting.append((ranked[i][size - keep - 1] * size / (keep + 1) / cost, i, cost))
        if not fitting:
            break
        _, i, cost = max(fitting)
        structure.remove(i, -1)
        kept[i] += 1
        total += cost
    structure.reset()
    return kept


def _floors(structure: Structure, units: int) -> list[int]:
    return [min(size, units) for size in structure.sizes()]


def _comfortable_floors(structure: Structure, params: int) -> list[int]:
    """The highest floors, between FLOOR and COMFORT, that by themselves take no more than half of the budget."""
    lowest = structure.params(_floors(structure, FLOOR))
    if lowest > params:
        raise UserError(f"a budget of {params:,} parameters is out of reach: the least for this network is {lowest:,}")
    for units in range(COMFORT, FLOOR, -1):
        if structure.params(_floors(structure, units)) <= params / 2:
            return _floors(structure, units)
    return _floors(structure, FLOOR)


def step_left(structure: Structure, kept: list[int]) -> int:
    """The parameters that the cheapest unit to give back would cost: the grain of the landing."""
    costs = []
    base = structure.params(kept)
    for i, (size, keep) in enumerate(zip(structure.sizes(), kept, strict=True)):
        if keep < size:
            costs.append(structure.params([*kept[:i], keep + 1, *kept[i + 1 :]]) - base)
    return min(costs, default=0)


def reestimate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Measure the running statistics of every batch norm anew on `batches` of images (B, 3, H, W).

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
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(training)
