"""Budgets: is there something to prune, and can each mode of pruning reach its target?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from compress.pipeline.step import Step
from compress.pruning import unstructured
from compress.pruning.limits import require_params_only
from compress.pruning.pruner import prune, prune_to_minimum
from compress.recipe.budget import Cost, Limits, describe_budgets
from compress.recipe.schema import Recipe
from compress.runtime.errors import UserError


def check_something_to_prune(
    recipe: Recipe, steps: Sequence[Step], limits: Limits, cost: Cost
) -> None:
    """Check that a student above the budget is pruned, and one below it is not."""
    budget = describe_budgets(recipe.budgets())
    state = f"budget {budget}: the student {recipe.student.name} has {limits.describe(cost)}"
    prunes, fits = any(step.prune for step in steps), limits.fits(cost)
    if prunes and fits:
        raise UserError(f"{state}: nothing to prune; choose a smaller budget or a bigger student")
    if not prunes and not fits:
        raise UserError(f"{state}, and the recipe has no prune stage")


def check_reachable(
    recipe: Recipe,
    steps: Sequence[Step],
    student: nn.Module,
    example: torch.Tensor,
    least_latency: int = 0,
) -> nn.Module | None:
    """Check that each mode of pruning can reach its last target.

    Before training, the target can only be compared with the smallest possible network.

    Args:
        least_latency: nanoseconds that it takes for one image, if time is limited.

    Returns:
        That network, if channels are pruned.
    """
    budget = f"budget {describe_budgets(recipe.budgets())}"
    least = f"the least for {recipe.student.name} is"

    def targets(mode: str) -> list[Limits]:
        cuts = [(step.prune, step.target) for step in steps]
        return [target for stage, target in cuts if stage and target and stage.mode == mode]

    channels, weights = targets("channels"), targets("weights")
    smallest = None
    if weights:
        require_params_only(weights[-1])
    if channels:
        smallest, lowest = prune_to_minimum(student, example)
        lowest = replace(lowest, latency=least_latency)
        if not channels[-1].fits(lowest):
            first = f" to {channels[-1]} by channels first" if weights else ""
            raise UserError(
                f"{budget}: out of reach{first}, {least} {channels[-1].describe(lowest)}"
            )
        if weights:
            # Approximately the network that the cuts by channels will leave.
            student = prune(student, example, channels[-1].params, original=student)
    if weights:
        lowest = Cost(unstructured.count_min_params(student), 0, 0)
        if not weights[-1].fits(lowest):
            raise UserError(f"{budget}: out of reach, {least} {weights[-1].describe(lowest)}")
    return smallest
