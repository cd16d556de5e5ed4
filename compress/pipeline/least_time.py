"""The least time: minutes that are too short for a recipe's stages are refused before training."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from compress.models.build import build_untrained
from compress.models.cost import measure_cost
from compress.models.fuse_bn import fuse_conv_bn
from compress.models.reuse import reusing_networks
from compress.pipeline.context import StageContext
from compress.pipeline.events import RunEvents
from compress.pipeline.plan import Plan
from compress.pipeline.stage_costs import image_costs
from compress.pipeline.step import Step
from compress.pipeline.time_budget import RESERVE
from compress.pipeline.train_stage import probe_training
from compress.runtime import distributed
from compress.runtime.errors import UserError
from compress.training import timing
from compress.training.forward import make_teacher
from compress.training.schedule import count_steps

# Steps that a stage needs to learn something, unless its recipe has fewer; the longest one, in
# which a small network recovers from its last cut, needs more.
LEAST_STEPS, LEAST_STEPS_LONGEST = 60, 240

# Steps of which the fastest counts; and those that fitting a stage's epochs to its time will take.
TIMED_STEPS, FITTING_STEPS = 4, 10

# Passes over the validation images: while fitting, after an epoch, and at the end of the stage.
VALIDATIONS = 3


@dataclass(frozen=True)
class StageSeconds:
    """The seconds of each stage, as estimated before training; 0 for stages that do not train.

    Args:
        whole: as long as the recipe says.
        least: so that the stage learns something.
    """

    whole: list[float]
    least: list[float]


@reusing_networks()
def measure_stage_seconds(plan: Plan) -> StageSeconds:
    """Estimate how long each stage of a plan takes, and the least in which it learns something.

    Each network is timed for a few steps, before its first cut; a cut makes it faster as
    `compress.pipeline.stage_costs.image_costs` assumes.

    Raises:
        UserError: the recipe's minutes are less than what the stages need together.
    """
    started = time.monotonic()
    costs = image_costs(plan, _measure_networks(plan))
    steps_per_epoch = count_steps(plan.data.train_count, plan.batch_size)
    # Training takes a step at least.
    lengths = [
        max(1, round(s.train.length * steps_per_epoch)) if s.train else 0 for s in plan.steps
    ]
    # A forward pass is a third of a step.
    validation = plan.data.val_count / plan.batch_size / 3
    whole, least = [], []
    for cost, length in zip(costs, lengths, strict=True):
        floor = LEAST_STEPS_LONGEST if length == max(lengths) else LEAST_STEPS
        whole.append(cost * length)
        steps = min(length, floor) + FITTING_STEPS + VALIDATIONS * validation
        least.append(cost * steps if length else 0.0)
    needed = (sum(least) + time.monotonic() - started) / (1 - RESERVE)
    whole, least, needed = distributed.broadcast((whole, least, needed))
    minutes = plan.recipe.minutes
    if minutes is not None and 60 * minutes < needed:
        # A tenth more, because machines are not always equally fast.
        works = math.ceil(needed * 1.1 / 6) / 10
        raise UserError(
            f"minutes = {minutes:g}: too short for {sum(map(bool, least))} stages of training;"
            f" the least that works here is about {works:g} (--minutes {works:g})"
        )
    return StageSeconds(whole, least)


def _measure_networks(plan: Plan) -> list[float]:
    """Return the seconds of a training step for each multiply-add of each step's network.

    They are measured on labels alone, before the first cut. Of a network that only teaches, the
    forward pass is timed, a third of a step. Steps that cut have 0.
    """
    seconds: dict[tuple[str, int], float] = {}
    # Networks that are trained come first, since some of them only teach in other steps.
    for step in sorted(plan.steps, key=lambda step: step.train is None):
        network = (step.network.name, step.image_size)
        if step.prune or network in seconds:
            continue
        model = _load_uncut(plan, step)
        timed = _time_training if step.train else _time_forward
        macs = measure_cost(model, step.input_size).macs
        seconds[network] = timed(model, plan, step) / max(macs, 1)
    return [seconds.get((step.network.name, step.image_size), 0.0) for step in plan.steps]


def _time_training(model: nn.Module, plan: Plan, step: Step) -> float:
    assert step.train is not None
    with TemporaryDirectory() as folder:
        ctx = StageContext(plan, step, Path(folder) / "least.state", Path(folder), RunEvents())
        with probe_training(model, replace(step.train, freeze=None), ctx, False) as trainer:
            return timing.fastest_step(trainer, TIMED_STEPS)


def _time_forward(model: nn.Module, plan: Plan, step: Step) -> float:
    """Return the duration of three forward passes of a batch: a training step of the network."""
    forward = make_teacher(fuse_conv_bn(model), step.image_size)
    count = min(plan.batch_size, plan.data.train_count)
    images = torch.randn(count, *step.input_size, device=plan.device)
    return 3 * timing.fastest_call(lambda: forward(images), TIMED_STEPS)


def _load_uncut(plan: Plan, step: Step) -> nn.Module:
    kind = "teach" if step.kind == "teach" else "distill"
    for other in plan.steps:
        if other.kind == kind and other.trained is not None:
            return plan.place(copy.deepcopy(other.trained.model), step)
    model = build_untrained(step.network, len(plan.data.classes), step.input_size)
    return plan.place(model, step)
