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
        if not isinstance(stage, Train) or not _distills(stage):
            return stage
        changed = replace(stage, method=name, alpha=None, beta=None, taps=(), fade=False)
        # Feature maps cannot say when the student has reached its teacher.
        compared = load_method(changed).on_features is not None
        return replace(changed, stop_at_teacher=stage.stop_at_teacher and not compared)

    if name != "labels" and not any(map(_distills, stages)):
        raise UserError(f"method {name!r}: {where} has no stage that distills")
    return tuple(map(change, stages))


def _distills(stage: Stage) -> bool:
    return isinstance(stage, Train) and stage.kind != "teach" and stage.method != "labels"


def _use_importance(stages: Stages, name: str, where: str) -> Stages:
    def change(stage: Stage) -> Stage:
        if isinstance(stage, Prune) and stage.mode == "channels":
            return replace(stage, importance=name)
        return stage

    if not any(isinstance(stage, Prune) and stage.mode == "channels" for stage in stages):
        raise UserError(f"importance {name!r}: {where} has no stage that prunes channels")
    return tuple(map(change, stages))
