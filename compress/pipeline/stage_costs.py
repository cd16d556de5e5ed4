"""The cost of training on an image in each stage, relative to that of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from compress.distillation.objectives import epochs_until_cached
from compress.models.build import build_untrained
from compress.models.cost import measure_cost
from compress.models.reuse import reusing_networks
from compress.pipeline.plan import Plan
from compress.recipe.budget import Cost


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
        model = build_untrained(spec, len(data.classes), (channels, size, size))
        return measure_cost(model, (channels, size, size))

    costs: list[float] = []
    left = 1.0
    # The cost of one image for each step's model, its teacher left out.
    network: dict[int, float] = {}
    for step in plan.steps:
        if step.prune:
            if step.target is not None and step.prune.mode == "channels":
                left = math.sqrt(1 / step.target.usage(plan.student_cost))
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
