"""Channel pruning: a network and a budget in, a narrower network that fits out."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.deployment.stopwatch import open_stopwatch
from compress.models.cost import describe_difference, measure_cost
from compress.models.outputs import describe_choice, return_all, returns_logits_alone
from compress.models.plain_module import (
    copy_module,
    describe_computed_weights,
    require_module,
)
from compress.pruning.allocate import (
    TARGET_USAGE,
    allocate,
    choose_floors,
    find_smallest_step,
    get_lowest_floors,
)
from compress.pruning.clock import BLOCK, Clock
from compress.pruning.importance import Loss, score_units
from compress.pruning.latency import make_clock, prune_to_latency
from compress.pruning.limits import parse_limits
from compress.pruning.structure import Structure, add_latency
from compress.pruning.verified_cut import cut_verified
from compress.pruning.verify import check_classifier
from compress.recipe.budget import Amount, Cost, Limits, parse_budgets
from compress.runtime.errors import UserError


@dataclass(frozen=True)
class PruneOptions:
    """Options of channel pruning besides the budget; `prune` describes each.

    The clock predicts the time of a network for a limit on it.
    """

    importance: str = "magnitude"
    losses: Sequence[Loss] | None = None
    original: nn.Module | None = None
    round_to: int = 1
    ignored_layers: tuple[str, ...] = ()
    clock: Clock | None = None


def prune(
    model: nn.Module,
    example: Tensor,
    params: int | str | None = None,
    *,
    macs: int | str | None = None,
    bytes: int | str | None = None,
    latency: str | None = None,
    speedup: str | int | float | None = None,
    runtime: str = "onnx",
    threads: int = 1,
    importance: str = "magnitude",
    losses: Iterable[Loss] | None = None,
    original: nn.Module | None = None,
    round_to: int = 1,
    ignored_layers: Iterable[str] = (),
    log: Callable[[str], None] = lambda line: None,
) -> nn.Module:
    """Return a copy of `model` from which whole channels are removed until it fits the budget.

    At least one of `params`, `macs`, `bytes`, `latency` and `speedup` must be given; the result
    satisfies all that are.
    It uses at least 99 % of the tightest one, unless single channels are too coarse for that. Costs
    are as `compress.models.cost.measure_cost` counts them.

    Args:
        model: a classifier from images (B, C, H, W) to logits (B, classes), or to a tuple, dict or
            dataclass that holds them. It is not modified.
        example: one batch of input, (B, C, H, W). Multiply-adds are counted for its height and
            width; its values do not matter.
        params: budget in parameters, as a number or as in a recipe: ``"100k"``, or ``"5%"`` of the
            model's.
        macs: budget in multiply-adds for one image.
        bytes: budget in bytes of all parameters and buffers.
        latency: budget in time for one image, ``"0.4ms"``, or ``"20%"`` of the model's; measured on
            this machine's CPU.
        speedup: how many times as fast as the model, ``"5x"`` or 5.
        runtime: where time is measured, as in `compress.recipe.registry.RUNTIMES`.
        threads: number of threads of that runtime.
        importance: name of the importance that ranks channels, as in
            `compress.recipe.registry.IMPORTANCES`.
        losses: for importances that need data, one callable for each batch, from a model to its
            mean loss.
        original: the network before the first of several rounds of pruning. Layers that have been
            narrowed more than others since then are spared.
        round_to: keep widths multiples of this where the budget allows it. Processors are faster at
            8 or 16.
        ignored_layers: names of modules whose output channels stay, and with them all channels that
            could only be removed together with these.
        log: called with each line worth showing, for example about layers that cannot be pruned.

    Raises:
        UserError: the budget is not understood or out of reach, or the model cannot be pruned.

    Example:
        >>> model = torchvision.models.resnet18(num_classes=10)
        >>> pruned = prune(model, torch.zeros(1, 3, 64, 64), "1M", macs="20%")
    """
    given, example = require_module(model, "model"), _to_example(model, example)
    model = copy_module(given)
    full = _measure_classifier(model, example)
    texts = {"latency": latency, "speedup": None if speedup is None else str(speedup)}
    time = parse_budgets(texts).get("latency")
    size = (example.shape[1], example.shape[2], example.shape[3])
    clock = start_clock(model, size, time, runtime, threads)
    full = add_latency(full, model, clock)
    amounts: Any = {"params": params, "macs": macs, "bytes": bytes, "latency": time}
    limits = parse_limits(amounts, full)
    _check_limits(limits, full)
    if choice := describe_choice(model, example):
        log(choice)
    options = PruneOptions(
        importance,
        None if losses is None else list(losses),
        original,
        round_to,
        tuple(ignored_layers),
        clock,
    )

    def cut(limits: Limits, log: Callable[[str], None]) -> nn.Module:
        return prune_to_limits(model, example, limits, options, log)

    pruned = prune_to_latency(model, limits, clock, cut, log)
    return pruned if returns_logits_alone(given) else return_all(pruned)


def _to_example(model: nn.Module, example: Any) -> Tensor:
    """Return a batch of images in the precision of the model's weights."""
    if not isinstance(example, Tensor) or example.dim() != 4:
        shown = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise UserError(
            "example: pass one batch of images, a tensor (B, C, H, W), as"
            f" torch.zeros(1, 3, 224, 224), not {shown}"
        )
    weights = (each for each in model.parameters() if each.is_floating_point())
    return example.to(next(weights, torch.zeros(())).dtype)


def prune_to_limits(
    model: nn.Module,
    example: Tensor,
    limits: Limits,
    options: PruneOptions | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> nn.Module:
    """Return a copy of `model` from which channels are removed until it fits `limits`.

    Args:
        options, log: as for `prune`.

    Raises:
        UserError: the limits are out of reach or hold already, or the model cannot be pruned.
    """
    options = options or PruneOptions()
    structure, kept, verified = cut_verified(
        model,
        example,
        lambda structure: _choose_units(structure, limits, options),
        options.ignored_layers,
        options.clock,
    )
    if limits.macs is not None and (line := describe_difference(model, structure.input_size)):
        log(line)
    _log_result(structure, kept, verified, limits, log)
    pruned = structure.model
    pruned.zero_grad(set_to_none=True)
    for parameter, unpruned_parameter in zip(pruned.parameters(), model.parameters(), strict=True):
        parameter.requires_grad_(unpruned_parameter.requires_grad)
    for module, unpruned_module in zip(pruned.modules(), model.modules(), strict=True):
        module.training = unpruned_module.training
    return pruned


def _check_limits(limits: Limits, full: Cost) -> None:
    if min(limits.as_dict().values()) < 1:
        raise UserError(f"a budget of {limits} is out of reach; it must be 1 or more")
    if limits.fits(full):
        raise UserError(
            f"nothing to prune: the budget is {limits} and the model has {limits.describe(full)}"
        )


def start_clock(
    model: nn.Module,
    input_size: tuple[int, int, int],
    budget: Amount | None,
    runtime: str,
    threads: int,
) -> Clock | None:
    """Return a clock for the cuts of a network; None without a budget on time.

    Args:
        model: the network before its first cut.
        input_size: (C, H, W) of the image.

    Raises:
        UserError: the network cannot be pruned, the runtime is not installed or cannot express it.
    """
    if budget is None:
        return None
    timer = open_stopwatch(runtime, threads)
    smallest, _ = prune_to_minimum(model, torch.zeros(1, *input_size))
    return make_clock(model, smallest, input_size, budget, timer)


def prune_to_minimum(model: nn.Module, example: Tensor) -> tuple[nn.Module, Cost]:
    """Return a copy of `model` with every group at its lowest floor, and its cost.

    Raises:
        UserError: the model cannot be pruned.
    """
    structure, kept, _ = cut_verified(
        model,
        example,
        lambda structure: [torch.arange(units) for units in get_lowest_floors(structure)],
    )
    return structure.model, structure.predict_cost(kept)


def _measure_classifier(model: nn.Module, example: Tensor) -> Cost:
    check_classifier(copy.deepcopy(model).eval(), example)
    return measure_cost(model, (example.shape[1], example.shape[2], example.shape[3]))


def _choose_units(structure: Structure, limits: Limits, options: PruneOptions) -> list[Tensor]:
    """Return the indices of the units that each group keeps, best first."""
    _check_limits(limits, structure.full_cost)
    scores = score_units(options.importance, structure, options.losses)
    original = structure
    if options.original is not None:
        original = Structure(
            copy.deepcopy(options.original),
            structure.example,
            structure.ignored_layers,
            structure.unresolved_groups,
        )
    floors = choose_floors(structure, limits)
    round_to = options.round_to
    if limits.latency is not None:
        # Other widths take longer than the next multiple.
        round_to = math.lcm(round_to, BLOCK)
    kept = allocate(structure, scores, limits, floors, original.unit_counts(), round_to)
    return [
        score.argsort(descending=True, stable=True)[:keep]
        for score, keep in zip(scores, kept, strict=True)
    ]


def _log_result(
    structure: Structure,
    kept: list[int],
    verified: bool,
    limits: Limits,
    log: Callable[[str], None],
) -> None:
    if layers := structure.uncut_layers:
        log(
            "not pruned, because torch-pruning cannot resolve their channel groups:"
            f" {', '.join(layers)}"
        )
        if remedy := describe_computed_weights(structure.model):
            log(remedy)
    if not verified:
        log(
            "the cut could not be verified: without normalization layers, the logits are infinite;"
            " check the accuracy"
        )
    used = limits.usage(structure.predict_cost(kept))
    if used >= TARGET_USAGE or limits.tightest(structure.predict_cost(kept)).latency is not None:
        return
    step = find_smallest_step(structure, kept, limits)
    if step is not None:
        log(f"lands at {used:.1%} of the budget: the smallest step left is {limits.describe(step)}")
