"""Time budgets: a run's minutes are shared among its stages, and stages are fitted to them.

Decisions (epochs that fit, compiling) are stored in run.json, so that a resumed run ends as an
uninterrupted one does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from compress.distillation.objectives import epochs_until_cached
from compress.models.build import build
from compress.models.cost import measure_cost
from compress.models.reuse import reusing_networks
from compress.pipeline.events import RunEvents
from compress.pipeline.plan import Plan
from compress.pipeline.run_dir import RunDirectory
from compress.pipeline.step import Step
from compress.recipe.budget import Cost
from compress.runtime import distributed
from compress.runtime.device import can_compile
from compress.training import timing
from compress.training.timing import Probe

# Fraction of a stage's time that is kept free, so that it ends on time.
RESERVE = 0.02
# Smallest fraction of the remaining time that a stage gets. With less, a short stage would spend
# all of its time on measuring.
MIN_SHARE = 0.02
# Fewest steps for which a trained network is trained further. Within fewer, the rise and the fall
# of the learning rate do it no good.
MIN_STEPS = 20


@dataclass(frozen=True)
class StageTime:
    """The time of one training stage, and the decisions that depend on it.

    Args:
        started: start of the stage, as given by time.monotonic.
        seconds: its part of the run's minutes; None if the run has no time budget.
    """

    plan: Plan
    step: Step
    run_dir: RunDirectory
    events: RunEvents
    started: float
    seconds: float | None = None

    def should_compile(self, probe: Probe, steps: float) -> bool:
        """Return True if the stage is to be compiled; this is measured once and stored.

        Args:
            steps: the stage's number of steps, by the recipe.
        """
        decided: dict[str, bool] = self.run_dir.manifest["compiled"]
        name = self.step.name
        if name not in decided:
            decided[name] = False
            if can_compile(self.plan.device):
                limits = (steps, math.inf) if self.seconds is None else (math.inf, self.seconds)
                decided[name], measured = timing.compiling_pays(probe, *limits)
                if measured:
                    self.events.log(f"  {measured}")
            self.run_dir.write()
        return decided[name]

    def fit_epochs(self, probe: Probe, steps: int, cached_after: float) -> float:
        """Return the stage's epochs: the recipe's, or as many as fit into its time.

        The number is measured once and stored.

        Args:
            steps: the number of steps in an epoch.
            cached_after: the number of epochs after which all of the teacher's logits are cached.
        """
        assert self.step.train is not None
        if self.seconds is None:
            return self.step.train.length
        fitted: dict[str, float] = self.run_dir.manifest.setdefault("fitted", {})
        name = self.step.name
        if name not in fitted:
            left = self.seconds - (time.monotonic() - self.started)
            seconds = distributed.broadcast(left)
            epochs = timing.count_epochs(seconds, probe, steps, cached_after)
            fitted[name] = round_epochs(epochs, steps, continues_training(self.step, self.plan))
            self.run_dir.write()
            planned = f"{fitted[name]:.3g} epochs, about {max(seconds, 0) / 60:.1f} min"
            self.events.log(
                f"  fitted to the time left: {planned if fitted[name] else 'no training'}"
            )
        return fitted[name]


def stage_seconds(left: float, costs: Sequence[float], least: Sequence[float] = ()) -> float:
    """Return the seconds, of those left, that the first of the remaining stages gets.

    Every stage gets its least seconds; the rest is shared by cost.

    Args:
        costs: the costs of the remaining stages; the first trains, so its cost is above 0.
        least: the least seconds that the remaining stages need.
    """
    left, share = (1 - RESERVE) * left, max(MIN_SHARE, costs[0] / sum(costs))
    if not least:
        return left * share
    return least[0] + max(left - sum(least), 0.0) * share


def round_epochs(epochs: float, steps: int, trained: bool) -> float:
    """Round a very small number of epochs down to nothing, or up to one step.

    A trained network is left as it is, because a few steps would only unsettle it. A new or newly
    cut network gets at least one step.

    Args:
        steps: the number of steps in an epoch.
    """
    if trained:
        return epochs if epochs * steps >= MIN_STEPS else 0.0
    return max(epochs, float(f"{1 / steps:.4g}"))


def continues_training(step: Step, plan: Plan) -> bool:
    """Return True if a step starts from a network that has been trained at its image size."""
    before = plan.steps[step.index - 1]
    trained = step.kind == "finetune" and before.kind in ("distill", "finetune")
    return trained and before.image_size == step.image_size


@reusing_networks()
def image_costs(plan: Plan, per_mac: Sequence[float] | None = None) -> list[float]:
    """Return the cost of training on one image in each stage, 0 if it does not train.

    A teacher's forward pass costs a third of a training step. Early-stopped KD is assumed to stop
    at once. The cost of a step of a pruned student shrinks as the square root of the fraction that
    the tightest limit leaves.

    Args:
        per_mac: the cost of a multiply-add of the forward pass in each stage, 1 if left out. On
            most machines, those of depthwise convolutions take far longer than others.
    """
    per_mac = per_mac if per_mac is not None else [1.0] * len(plan.steps)
    data = plan.data
    trained = {step.kind: step.trained.model for step in plan.steps if step.trained}

    @cache
    def full_cost(kind: str, size: int) -> Cost:
        channels = next(s.channels for s in plan.steps if (s.kind == "teach") == (kind == "teach"))
        if kind in trained:
            return measure_cost(trained[kind], (channels, size, size))
        spec = plan.recipe.teacher if kind == "teach" else plan.recipe.student
        with torch.random.fork_rng(devices=[]):
            spec = replace(spec, pretrained=False)
            model = build(spec, len(data.classes), input_size=(channels, size, size))
        return measure_cost(model, (channels, size, size))

    costs: list[float] = []
    left = 1.0
    # The cost of one image for each step's model, its teacher left out.
    network: dict[int, float] = {}
    for step in plan.steps:
        if step.prune:
            if step.target is not None and step.prune.mode == "channels":
                student = full_cost("distill", plan.image_size)
                left = math.sqrt(1 / step.target.usage(student))
            costs.append(0.0)
            continue
        kind = "teach" if step.kind == "teach" else "distill"
        forward = left * full_cost(kind, step.image_size).macs
        network[step.index] = per_mac[step.index] * forward
        cost = 0.0
        if step.train:
            cost = network[step.index]
            teacher = plan.teacher_of(step)
            if teacher and not step.train.stop_at_teacher:
                shape = plan.task.output_shape(1, data.image_size)[1:]
                uncached = epochs_until_cached(step.train, data.train_count, *shape)
                asked = min(uncached / step.train.length, 1)
                cost += asked * network[teacher.index] / 3
        costs.append(cost)
    return costs
