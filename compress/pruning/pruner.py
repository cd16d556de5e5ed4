"""A network and a budget in, a narrower network that fits out: channels are scored, chosen and cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from compress.models.cost import measure_cost
from compress.pruning.allocate import LANDED, widths
from compress.pruning.importance import Loss, worths
from compress.pruning.structure import Misread, Structure, check_answer
from compress.recipe.budget import Axis, Cost, Limits, parse_amount
from compress.runtime.errors import UserError

FLOOR = 4  # units: fewer than this in any layer, and next to nothing gets through it
COMFORT = 8  # units a layer keeps as long as the floors leave the choice of most of the budget


def prune(
    model: nn.Module,
    example: Tensor,
    params: int | str | None = None,
    *,
    macs: int | str | None = None,
    bytes: int | str | None = None,
    importance: str = "magnitude",
    losses: Iterable[Loss] | None = None,
    whole: nn.Module | None = None,
    round_to: int = 1,
    note: Callable[[str], None] = lambda text: None,
) -> nn.Module:
    """A copy of `model`, pruned by whole channels until it fits, by torchinfo's count.

    Args:
        model: images (B, C, H, W) to logits (B, classes). It is left as it was.
        example: one batch of input, (B, C, H, W); its values do not matter.
        params: the budget in parameters, as a number or as a recipe has it: ``"100k"``, ``"5%"``. The result never
            exceeds it, and lies below it by less than one per cent, or by less than the smallest step that is left.
        macs, bytes: budgets in multiply-adds for one image and in bytes of all tensors; those that are given all hold.
        importance: a name of `compress.pruning.importance.IMPORTANCES`.
        losses: what importances that need data measure on.
        whole: the network as it was before the first of several rounds, whose proportions are to be kept; a layer that
            has lost much in earlier rounds is then spared in this one.
        round_to: widths stay multiples of this where the budget can be met so: processors are faster at 8 or 16.
        note: told what is worth a line: layers left alone, or a budget that single channels are too coarse for.

    Raises:
        UserError: the budget is not understood or out of the model's reach, or the model cannot be pruned.
    """
    asked: dict[Axis, int | str | None] = {"params": params, "macs": macs, "bytes": bytes}
    if all(amount is None for amount in asked.values()):
        raise UserError("a budget is due: parameters, multiply-adds, bytes, or several of them")
    check_answer(copy.deepcopy(model).eval(), example)
    full = measure_cost(model, (example.shape[1], example.shape[2], example.shape[3]))
    limits = Limits(
        **{
            a: parse_amount(n, a).resolve(getattr(full, a)) if isinstance(n, str) else n
            for a, n in asked.items()
        }
    )
    if min(limits.as_dict().values()) < 1:
        raise UserError(f"a budget of {limits} is out of reach: it must be 1 or more")
    if limits.fits(full):
        raise UserError(
            f"nothing to prune: the budget is {limits} and the model has {limits.describe(full)}"
        )
    losses = None if losses is None else list(losses)

    def best(structure: Structure) -> list[Tensor]:
        worth = worths(importance, structure.model, structure, losses)
        before = (
            structure
            if whole is None
            else Structure(copy.deepcopy(whole), example, structure.leave)
        )
        keep = widths(
            structure,
            worth,
            limits,
            _comfortable_floors(structure, limits),
            before.sizes(),
            round_to,
        )
        return [
            w.argsort(descending=True, stable=True)[:k] for w, k in zip(worth, keep, strict=True)
        ]

    structure, keep, seen = _cut(model, example, best)
    pruned, used = structure.model, limits.usage(structure.size(keep))
    if odd := [*structure.lost, *structure.leave]:
        note(f"left as they are, since torch-pruning misreads what hangs on them: {', '.join(odd)}")
    if not seen:
        note(
            "the cut could not be checked, for without its norms the network answers infinities: see how it scores"
        )
    if used < LANDED and (step := smallest_step(structure, keep, limits)) is not None:
        note(
            f"lands at {used:.1%} of the budget: the smallest step left is {limits.describe(step)}"
        )
    pruned.zero_grad(set_to_none=True)
    for parameter, theirs in zip(pruned.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(theirs.requires_grad)
    for module, original in zip(pruned.modules(), model.modules(), strict=True):
        module.training = original.training
    return pruned


def narrowest(model: nn.Module, example: Tensor) -> tuple[nn.Module, Cost]:
    """A copy of `model` with every layer at its floor, and its size.

    Raises:
        UserError: the model cannot be pruned.
    """
    structure, keep, _ = _cut(
        model, example, lambda of: [torch.arange(units) for units in _floors(of, FLOOR)]
    )
    return structure.model, structure.size(keep)


def _cut(
    model: nn.Module, example: Tensor, choose: Callable[[Structure], list[Tensor]]
) -> tuple[Structure, list[int], bool]:
    """A copy of `model` of which each coupling keeps the units that `choose` gives, how many those are, and whether the
    cut could be checked. Couplings that turn out to be misread stay as they are, and the others are chosen anew."""
    leave: list[str] = []
    while True:
        structure = Structure(copy.deepcopy(model), example, leave)
        chosen = choose(structure)
        try:
            return structure, [len(units) for units in chosen], structure.cut(chosen)
        except Misread:
            leave += misread(model, example, leave, chosen)


def misread(
    model: nn.Module, example: Tensor, leave: Iterable[str], chosen: list[Tensor]
) -> list[str]:
    """The root layers of couplings that torch-pruning misreads, as where channels are shuffled.

    What goes wrong when all of `chosen` (see `Structure.cut`) is cut is done in halves, down to the couplings at fault.

    Args:
        leave: couplings that are left as they are anyway.

    Raises:
        UserError: there is no coupling that it reads right.
    """
    names = [
        coupling.name for coupling in Structure(copy.deepcopy(model), example, leave).couplings
    ]

    def wrong(suspects: list[str]) -> list[str]:
        structure = Structure(copy.deepcopy(model), example, leave)
        pairs = zip(structure.couplings, chosen, strict=True)
        try:
            structure.cut(
                [kept if c.name in suspects else torch.arange(len(c)) for c, kept in pairs]
            )
            return []
        except Misread as error:
            half = len(suspects) // 2
            found = suspects if not half else [*wrong(suspects[:half]), *wrong(suspects[half:])]
            if not found:  # each half is fine, and both together are not
                raise UserError(
                    f"this network cannot be pruned at layers {', '.join(suspects)}: {error}"
                ) from error
            return found

    found = wrong(names)
    if len(found) == len(names):
        raise UserError(
            f"this network cannot be pruned: torch-pruning misreads what hangs on {', '.join(names[:3])}"
        )
    return found


def smallest_step(structure: Structure, kept: list[int], limits: Limits) -> Cost | None:
    """What the cheapest unit costs that could be put back; None if nothing is gone."""
    steps = []
    for i, (size, keep) in enumerate(zip(structure.sizes(), kept, strict=True)):
        structure.remove(i, size - keep)
    for i, (size, keep) in enumerate(zip(structure.sizes(), kept, strict=True)):
        if keep < size:
            steps.append(Cost(0, 0, 0) - structure.saving(i, -1))
    structure.reset()
    return min(steps, key=limits.usage, default=None)


def _floors(structure: Structure, units: int) -> list[int]:
    return [min(size, units) for size in structure.sizes()]


def _comfortable_floors(structure: Structure, limits: Limits) -> list[int]:
    """The highest floors, between FLOOR and COMFORT, that by themselves take no more than half of the budget."""
    lowest = structure.size(_floors(structure, FLOOR))
    if not limits.fits(lowest):
        raise UserError(
            f"a budget of {limits} is out of reach: the least for this network is {limits.describe(lowest)}"
        )
    for units in range(COMFORT, FLOOR, -1):
        if limits.usage(structure.size(_floors(structure, units))) <= 0.5:
            return _floors(structure, units)
    return _floors(structure, FLOOR)


def reestimate_batchnorm(
    model: nn.Module, forward: Callable[[Tensor], Tensor], batches: Iterable[Tensor]
) -> None:
    """Measure the running statistics of every batch norm of `model` anew: `forward` runs it on batches of images.

    A cut changes what flows into each normalization; its old mean and variance describe a network that is gone. What
    drops something at random while training lets all of it through, as it will when the network is used.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    training = model.training
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    with torch.no_grad():
        for images in batches:
            forward(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(training)
