"""Stages with another method or importance than their recipe's."""

from __future__ import annotations

from dataclasses import replace

from compress.distillation.objectives import load_method
from compress.recipe.stages import Prune, Stage, Train
from compress.runtime.errors import UserError

Stages = tuple[Stage, ...]


def change_stages(
    stages: Stages, method: str | None, importance: str | None, where: str = "the recipe"
) -> Stages:
    """Let all stages that distill use a method, and all that prune channels an importance.

    Args:
        method, importance: names; None leaves those of the stages.
        where: the stages' recipe, in messages.

    Raises:
        UserError: there is no such stage.
    """
    if method is not None:
        stages = _use_method(stages, method, where)
    if importance is not None:
        stages = _use_importance(stages, importance, where)
    return stages


def _use_method(stages: Stages, name: str, where: str) -> Stages:
    """Let all stages that distill use a method, with its own weights."""

    def change(stage: Stage) -> Stage:
        if not isinstance(stage, Train) or stage.kind == "teach" or stage.method == "labels":
            return stage
        changed = replace(stage, method=name, alpha=None, beta=None, taps=(), fade=False)
        # Feature maps cannot say when the student has reached its teacher.
        compared = load_method(changed).on_features is not None
        return replace(changed, stop_at_teacher=stage.stop_at_teacher and not compared)

    changed = tuple(map(change, stages))
    if not any(getattr(stage, "method", "") == name for stage in changed):
        raise UserError(f"method {name!r}: {where} has no stage that distills")
    return changed


def _use_importance(stages: Stages, name: str, where: str) -> Stages:
    changed = tuple(
        replace(stage, importance=name)
        if isinstance(stage, Prune) and stage.mode == "channels"
        else stage
        for stage in stages
    )
    if not any(getattr(stage, "importance", "") == name for stage in changed):
        raise UserError(f"importance {name!r}: {where} has no stage that prunes channels")
    return changed
