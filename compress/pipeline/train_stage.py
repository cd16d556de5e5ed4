"""A training stage: a model learns from the labels and from its guide, for as long as there is patience for."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from torch import nn

from compress.data.batches import Augment, Batch, training_batches
from compress.data.dataset import Data
from compress.distillation.early_stop import Outgrown
from compress.distillation.labels import Labels
from compress.distillation.logits_cache import Targets
from compress.distillation.methods import METHODS, Sized, asked_epochs, asks, objective
from compress.models.fuse_bn import folded
from compress.models.head import freeze_backbone
from compress.pipeline.context import Rehearsal, Workbench, sample, side
from compress.recipe.schema import Train
from compress.runtime import distributed as processes
from compress.runtime.device import fast_bfloat16, versions
from compress.training.events import Watch
from compress.training.trainer import Objective, Schedule, steps_of, teach, train


def learn(model: nn.Module, stage: Train, bench: Workbench) -> nn.Module:
    """Train `model` on the labels, and on what its guide says if there is one.

    Raises:
        UserError: the loss is not finite.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if stage.freeze == "backbone":
        freeze_backbone(model)
    schedule = Schedule(stage.epochs, stage.optimizer, stage.lr, stage.weight_decay, stage.warmup, stage.ema)
    steps = steps_of(len(bench.data.train), bench.recipe.batch)
    compiled = stage.compile is True
    if stage.compile == "auto" and bench.pays is not None and METHODS[stage.method].of_maps is None:
        compiled = bench.pays(lambda so: _rehearsal(model, stage, schedule, bench, so), stage.epochs * steps)
    if bench.fit is not None:
        unasked = replace(stage, method="labels", alpha=0.0, outgrow=False)  # to read an answer takes no time
        asked = asked_epochs(stage, _samples(bench), len(bench.data.classes)) if bench.guide else math.inf

        def rehearsals(kept: bool) -> Rehearsal:
            return _rehearsal(model, unasked if kept else stage, schedule, bench, compiled)

        schedule = replace(schedule, epochs=bench.fit(rehearsals, steps, asked))
        if not schedule.epochs:  # no time is left, and `model` has learned before
            return model.eval()
    return _trained(model, stage, schedule, bench, compiled)


def _rehearsal(model: nn.Module, stage: Train, schedule: Schedule, bench: Workbench, compiled: bool) -> Rehearsal:
    """The training of a copy of `model`, without end."""

    def rehearse(watch: Watch, folder: Path) -> None:
        still = replace(schedule, epochs=1_000_000, lr=0.0)  # the time is the same, and no loss becomes infinite
        aside = replace(bench, watch=watch, state=folder / "rehearsal.state", answers=folder)
        _trained(copy.deepcopy(model), stage, still, aside, compiled)

    return rehearse


def _trained(model: nn.Module, stage: Train, schedule: Schedule, bench: Workbench, compiled: bool) -> nn.Module:
    recipe, data, size = bench.recipe, bench.data, side(stage, bench.data)
    goal, answered = goal_of(model, stage, bench), asks(stage) and bench.guide is not None

    def batches(epoch: int) -> Iterator[Batch]:
        again = stage.views if answered and getattr(goal, "listens", True) else 0
        view = epoch % again if again else epoch
        augment, part = _augment(stage, data), processes.part()
        return training_batches(data, augment, seed=recipe.seed, view=view, batch=recipe.batch, part=part)

    return train(
        model,
        batches,
        goal,
        schedule,
        steps=steps_of(len(data.train), recipe.batch),
        validate=lambda trained: bench.validate(trained, size),
        seed=recipe.seed,
        state=bench.state,
        watch=bench.watch,
        size=size,
        compiled=compiled,
    )


def goal_of(student: nn.Module, stage: Train, bench: Workbench) -> Objective:
    """What `stage` trains `student` for."""
    if bench.guide is None:
        return Labels(stage.label_smoothing)
    torch.manual_seed(bench.recipe.seed)  # an objective may have weights of its own
    guide, learner = Sized(bench.guide.model, bench.guide.size), Sized(student, side(stage, bench.data))
    example = sample(bench, bench.recipe.batch, bench.recipe.batch)
    made = objective(stage, guide, learner, lambda: _answers(guide, stage, bench), example)
    if not stage.outgrow:
        return made
    return Outgrown(made, Labels(stage.label_smoothing), bench.guide.val)


def _answers(guide: Sized, stage: Train, bench: Workbench) -> Targets:
    recipe, data = bench.recipe, bench.data
    shown = [data.checksum, data.size, data.mean, data.std, asdict(_augment(stage, data)), recipe.seed, recipe.batch]
    arithmetic = [bench.device.type, fast_bfloat16(bench.device), versions()]
    what = processes.of_first([*shown, guide.size, _fingerprint(guide.network), *arithmetic])
    folder = bench.answers / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return Targets(teach(folded(guide.network), guide.size), folder, _samples(bench), len(data.classes))


def _samples(bench: Workbench) -> int:
    """Images of a view."""
    batch, images = bench.recipe.batch, len(bench.data.train)
    return steps_of(images, batch) * min(batch, images)


def _augment(stage: Train, data: Data) -> Augment:
    asked = {field.name: getattr(stage, field.name) for field in fields(Augment)}
    return Augment(**asked | {"flip": data.mirrors if stage.flip == "auto" else stage.flip})


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256(repr(model).encode())  # the same weights may stand in another network
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
