"""Time budgets: a run's minutes are shared among its stages, and stages are fitted to them.

Decisions (epochs that fit, compiling) are stored in run.json, so that a resumed run ends as an
uninterrupted one does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from compress.pipeline.events import RunEvents
from compress.pipeline.plan import Plan
from compress.pipeline.run_dir import RunDirectory
from compress.pipeline.step import Step
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
                fixed = self.seconds is None or is_early(self.step, self.plan)
                seconds = math.inf if self.seconds is None else self.seconds
                decided[name], measured = timing.compiling_pays(
                    probe, steps if fixed else math.inf, seconds
                )
                if measured:
                    self.events.log(f"  {measured}")
            self.run_dir.write()
        return decided[name]

    def fit_epochs(self, probe: Probe, steps: int, cached_after: float) -> float:
        """Return the stage's epochs: the recipe's, or as many as fit into its time.

        An early stage has no more than the recipe's: more time is worth most where it trains the
        final network. The number is measured once and stored.

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
            if is_early(self.step, self.plan):
                epochs = min(epochs, self.step.train.length)
            fitted[name] = round_epochs(epochs, steps, continues_training(self.step, self.plan))
            self.run_dir.write()
            planned = f"{fitted[name]:.3g} epochs, within {max(seconds, 0) / 60:.1f} min"
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


def is_early(step: Step, plan: Plan) -> bool:
    """Return True if a later step makes the last cut, and the network is trained after it."""
    cut = max((each.index for each in plan.steps if each.prune), default=-1)
    last = max((each.index for each in plan.steps if each.train), default=-1)
    return step.index < cut < last


def continues_training(step: Step, plan: Plan) -> bool:
    """Return True if a step starts from a network that has been trained at its image size."""
    before = plan.steps[step.index - 1]
    trained = step.kind == "finetune" and before.kind in ("distill", "finetune")
    return trained and before.image_size == step.image_size
