"""The steps of a recipe, and the target of each cut."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from compress.data.dataset import Dataset
from compress.pipeline.step import Step
from compress.recipe.budget import Cost, Limits
from compress.recipe.load import TRAINED_BY
from compress.recipe.schema import Recipe
from compress.recipe.stages import Stage, Train


def stage_steps(
    recipe: Recipe,
    data: Dataset,
    trained: Iterable[str] = (),
    channels: Mapping[str, int] | None = None,
) -> list[Step]:
    """Return a step for each stage whose network is not trained already.

    Args:
        trained: roles of trained networks.
        channels: channels of the images that the network of each role takes; 3 if left out.
    """
    replaced = {TRAINED_BY[role] for role in trained}
    return [
        Step(
            kind=stage.kind,
            stage=stage,
            network=recipe.teacher if stage.kind == "teach" else recipe.student,
            image_size=scale_image_size(stage, data.image_size),
            channels=(channels or {}).get("teacher" if stage.kind == "teach" else "student", 3),
            position=position,
        )
        for position, stage in enumerate(recipe.stages)
        if stage.kind not in replaced
    ]


def scale_image_size(stage: Stage, image_size: int) -> int:
    """Return the side of a stage's images in pixels, for the recipe's image size."""
    least = stage.min_image_size if isinstance(stage, Train) else None
    return max(1, round(image_size * stage.scale), least or 1)


def drop_rounds(steps: list[Step], limits: Limits, cost: Cost) -> list[Step]:
    """Drop the first rounds of pruning if there are more rounds than halvings to the limits.

    A network survives halving well. The first remaining round uses images of the size that the
    student was trained on. Rounds in another mode, which come later, all stay.
    """
    rounds = [(index, step.prune) for index, step in enumerate(steps) if step.prune]
    rounds = [(index, stage) for index, stage in rounds if stage.mode == rounds[0][1].mode]
    needed = max(1, math.ceil(math.log2(max(limits.usage(cost), 1))))
    if len(rounds) <= needed:
        return steps
    start, kept = rounds[0][0], rounds[-needed][0]
    first = steps[kept]
    if start and steps[start - 1].train:
        first = replace(first, image_size=steps[start - 1].image_size)
    return [*steps[:start], first, *steps[kept + 1 :]]


def set_targets(steps: list[Step], limits: Limits, cost: Cost) -> list[Step]:
    """Give each cut its target: evenly spaced in ratio from the student to the limits."""
    rounds = [index for index, step in enumerate(steps) if step.prune]
    targeted = list(steps)
    for done, index in enumerate(rounds, start=1):
        last = done == len(rounds)
        target = limits if last else limits.interpolate(cost, done / len(rounds))
        targeted[index] = replace(steps[index], target=target)
    return targeted
