"""A training stage: a model learns from the labels and from its guide, for as long as there is patience for."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from compress.data.batches import Batch, training_batches
from compress.distillation.early_stop import Outgrown
from compress.distillation.labels import Labels
from compress.distillation.logits_cache import Targets
from compress.distillation.methods import METHODS, Sized, asked_epochs, asks, objective
from compress.models.fuse_bn import fuse_conv_bn
from compress.models.head import freeze_backbone
from compress.pipeline.context import Rehearsal, StageContext, sample, side
from compress.recipe.schema import Train
from compress.runtime import distributed
from compress.runtime.device import has_fast_bfloat16, package_versions
from compress.training.events import Events
from compress.training.trainer import Objective, Schedule, steps_of, teach, train


def learn(model: nn.Module, stage: Train, ctx: StageContext) -> nn.Module:
    """Train `model` on the labels, and on what its guide says if there is one.

    Raises:
        UserError: the loss is not finite.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if stage.freeze == "backbone":
        freeze_backbone(model)
    schedule = Schedule(
        stage.epochs, stage.optimizer, stage.lr, stage.weight_decay, stage.warmup, stage.ema
    )
    steps = steps_of(len(ctx.data.train), ctx.recipe.batch_size)
    compiled = stage.compile is True
    if stage.compile == "auto" and ctx.pays is not None and METHODS[stage.method].of_maps is None:
        compiled = ctx.pays(
            lambda so: _rehearsal(model, stage, schedule, ctx, so), stage.epochs * steps
        )
    if ctx.fit is not None:
        unasked = replace(
            stage, method="labels", alpha=0.0, stop_at_teacher=False
        )  # to read an answer takes no time
        asked = asked_epochs(stage, _samples(ctx), len(ctx.data.classes)) if ctx.guide else math.inf

        def rehearsals(kept: bool) -> Rehearsal:
            return _rehearsal(model, unasked if kept else stage, schedule, ctx, compiled)

        schedule = replace(schedule, epochs=ctx.fit(rehearsals, steps, asked))
        if not schedule.epochs:  # no time is left, and `model` has learned before
            return model.eval()
    return _trained(model, stage, schedule, ctx, compiled)


def _rehearsal(
    model: nn.Module, stage: Train, schedule: Schedule, ctx: StageContext, compiled: bool
) -> Rehearsal:
    """The training of a copy of `model`, without end."""

    def rehearse(events: Events, folder: Path) -> None:
        still = replace(
            schedule, epochs=1_000_000, lr=0.0
        )  # the time is the same, and no loss becomes infinite
        aside = replace(ctx, events=events, state=folder / "rehearsal.state", answers=folder)
        _trained(copy.deepcopy(model), stage, still, aside, compiled)

    return rehearse


def _trained(
    model: nn.Module, stage: Train, schedule: Schedule, ctx: StageContext, compiled: bool
) -> nn.Module:
    recipe, data, size = ctx.recipe, ctx.data, side(stage, ctx.data)
    goal, answered = goal_of(model, stage, ctx), asks(stage) and ctx.guide is not None

    def batches(epoch: int) -> Iterator[Batch]:
        again = stage.views if answered and getattr(goal, "listens", True) else 0
        view = epoch % again if again else epoch
        augment, part = stage.augment(data.mirrors), distributed.shard()
        return training_batches(
            data, augment, seed=recipe.seed, view=view, batch=recipe.batch_size, part=part
        )

    return train(
        model,
        batches,
        goal,
        schedule,
        steps=steps_of(len(data.train), recipe.batch_size),
        validate=lambda trained: ctx.validate(trained, size),
        seed=recipe.seed,
        state=ctx.state,
        events=ctx.events,
        size=size,
        compiled=compiled,
    )


def goal_of(student: nn.Module, stage: Train, ctx: StageContext) -> Objective:
    """What `stage` trains `student` for."""
    if ctx.guide is None:
        return Labels(stage.label_smoothing)
    torch.manual_seed(ctx.recipe.seed)  # an objective may have weights of its own
    guide, learner = Sized(ctx.guide.model, ctx.guide.size), Sized(student, side(stage, ctx.data))
    example = sample(ctx, ctx.recipe.batch_size, ctx.recipe.batch_size)
    made = objective(stage, guide, learner, lambda: _answers(guide, stage, ctx), example)
    if not stage.stop_at_teacher:
        return made
    return Outgrown(made, Labels(stage.label_smoothing), ctx.guide.val)


def _answers(guide: Sized, stage: Train, ctx: StageContext) -> Targets:
    recipe, data = ctx.recipe, ctx.data
    shown = [
        data.checksum,
        data.size,
        data.mean,
        data.std,
        asdict(stage.augment(data.mirrors)),
        recipe.seed,
        recipe.batch_size,
    ]
    arithmetic = [ctx.device.type, has_fast_bfloat16(ctx.device), package_versions()]
    what = distributed.broadcast([*shown, guide.size, _fingerprint(guide.network), *arithmetic])
    folder = ctx.answers / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return Targets(
        teach(fuse_conv_bn(guide.network), guide.size), folder, _samples(ctx), len(data.classes)
    )


def _samples(ctx: StageContext) -> int:
    """Images of a view."""
    batch, images = ctx.recipe.batch_size, len(ctx.data.train)
    return steps_of(images, batch) * min(batch, images)


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256(repr(model).encode())  # the same weights may stand in another network
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
