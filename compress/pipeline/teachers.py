"""Whom a stage listens to, and whether it can: found out before any time is spent."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from compress.data.dataset import Dataset
from compress.distillation.methods import METHODS, Sized, check, check_taps
from compress.models.build import build
from compress.pipeline.context import Given, side
from compress.recipe.schema import Prune, Recipe, Stage, Train


def guide_of(stages: Sequence[Stage | Given], place: int) -> int | None:
    """Where the stage is whose network that at `place` listens to; None if there is no such stage."""
    stage = stages[place]
    which = stage.distill_from if isinstance(stage, Train) else "teacher"
    if which == "previous":
        return max(i for i in range(place) if not isinstance(stages[i], Prune))
    kind = "teach" if which == "teacher" else "distill"
    return next((i for i in range(place) if stages[i].kind == kind), None)


def check_methods(recipe: Recipe, stages: Sequence[Stage | Given], data: Dataset) -> None:
    """See whether the networks can be distilled as the stages say, before any time is spent on them.

    Raises:
        UserError: a method has no use for what a stage says, or a layer to tap is not there.
    """
    learning = [
        (i, stage)
        for i, stage in enumerate(stages)
        if isinstance(stage, Train) and stage.kind != "teach"
    ]
    guides = {i: guide_of(stages, i) for i, _ in learning}
    for i, stage in learning:
        check(stage, taught=guides[i] is not None)
    if looking := [(i, stage) for i, stage in learning if METHODS[stage.method].of_maps]:
        plain = (replace(network, pretrained=False) for network in (recipe.teacher, recipe.student))
        teacher, student = (build(network, len(data.classes)) for network in plain)
        for i, stage in looking:
            guide = stages[guides[i] or 0]
            network = (
                teacher if guide.kind == "teach" else copy.deepcopy(student)
            )  # a guide is frozen
            check_taps(stage, Sized(network, side(guide, data)), Sized(student, side(stage, data)))
