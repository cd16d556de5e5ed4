"""The least time: minutes that are too short for a recipe's stages are refused before training."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from compress.models.build import build
from compress.models.cost import measure_cost
from compress.models.memory_format import to_channels_last
from compress.models.reuse import reusing_networks
from compress.pipeline.context import StageContext
from compress.pipeline.events import RunEvents
from compress.pipeline.plan import Plan
from compress.pipeline.step import Step
from compress.pipeline.time_budget import RESERVE, image_costs
from compress.pipeline.train_stage import probe_training
from compress.runtime import distributed
from compress.runtime.errors import UserError
from compress.training import timing
from compress.training.schedule import count_steps

# Steps that a stage needs to learn something, unless its recipe has fewer; the longest one, in
# which a small network recovers from its last cut, needs more.
LEAST_STEPS, LEAST_STEPS_LONGEST = 60, 240

# Steps of which the fastest counts; and those that fitting a stage's epochs to its time will take.
TIMED_STEPS, FITTING_STEPS = 4, 10


@reusing_networks()
def measure_least_seconds(plan: Plan) -> list[float]:
    """Return the least seconds that each step of a plan needs; 0 for steps that do not train.

    Each network is timed for a few steps, before its first cut; a cut makes it faster as
    `compress.pipeline.time_budget.image_costs` assumes.

    Raises:
        UserError: the recipe's minutes are less than what the steps need together.
    """
    started = time.monotonic()
    costs, steps_per_epoch = image_costs(plan), count_steps(plan.data.train_count, plan.batch_size)
    lengths = [round(s.train.length * steps_per_epoch) if s.train else 0 for s in plan.steps]
    seconds: dict[tuple[str, int], float] = {}
    least = []
    for step, cost, length in zip(plan.steps, costs, lengths, strict=True):
        if not step.train:
            least.append(0.0)
            continue
        network = (step.network.name, step.image_size)
        if network not in seconds:
            seconds[network] = _seconds_per_cost(plan, step)
        floor = LEAST_STEPS_LONGEST if length == max(lengths) else LEAST_STEPS
        least.append(seconds[network] * cost * (min(length, floor) + FITTING_STEPS))
    needed = (sum(least) + time.monotonic() - started) / (1 - RESERVE)
    least, needed = distributed.broadcast((least, needed))
    minutes = plan.recipe.minutes
    if minutes is not None and 60 * minutes < needed:
        # A tenth more, because machines are not always equally fast.
        works = math.ceil(needed * 1.1 / 6) / 10
        raise UserError(
            f"minutes = {minutes:g}: too short for {sum(map(bool, least))} stages of training;"
            f" the least that works here is about {works:g} (--minutes {works:g})"
        )
    return least


def _seconds_per_cost(plan: Plan, step: Step) -> float:
    """Return the duration of a training step of the step's network, for each multiply-add.

    It is measured on labels alone, before the first cut.
    """
    assert step.train is not None
    model = _load_uncut(plan, step)
    with TemporaryDirectory() as folder:
        ctx = StageContext(plan, step, Path(folder) / "least.state", Path(folder), RunEvents())
        with probe_training(model, replace(step.train, freeze=None), ctx, False) as trainer:
            duration = timing.fastest_step(trainer, TIMED_STEPS)
    return duration / max(measure_cost(model, step.input_size).macs, 1)


def _load_uncut(plan: Plan, step: Step) -> nn.Module:
    kind = "teach" if step.kind == "teach" else "distill"
    for other in plan.steps:
        if other.kind == kind and other.trained is not None:
            return to_channels_last(other.trained.model).to(plan.device)
    with torch.random.fork_rng(devices=[]):
        spec = replace(step.network, pretrained=False)
        model = build(spec, len(plan.data.classes), input_size=step.input_size)
    return to_channels_last(model).to(plan.device)
