"""Training stages: train a network on the labels and, with a teacher, on its outputs."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from compress.data.batches import Batch, training_batches
from compress.distillation.early_stop import EarlyStoppedKD
from compress.distillation.labels import Labels
from compress.distillation.logits_cache import CAPACITY, LogitsCache, fits_cache
from compress.distillation.method import Teacher
from compress.distillation.objectives import (
    build_objective,
    epochs_until_cached,
    needs_features,
    uses_logits,
)
from compress.models.fuse_bn import fuse_conv_bn
from compress.models.head import freeze_backbone
from compress.pipeline.context import StageContext
from compress.pipeline.events import RunEvents
from compress.recipe.stages import Train
from compress.runtime import distributed
from compress.runtime.device import has_fast_bfloat16, package_versions
from compress.training.forward import make_teacher
from compress.training.objective import Objective
from compress.training.schedule import count_steps
from compress.training.timing import fit_views
from compress.training.trainer import Trainer, TrainResult

# Epochs of a probe, which is stopped long before their end.
ENDLESS = 1_000_000


def train_model(model: nn.Module, ctx: StageContext) -> TrainResult:
    """Train `model` as the context's stage says.

    Raises:
        UserError: the loss is not finite.
    """
    assert ctx.step.train is not None
    stage: Train = ctx.step.train
    compiled = stage.compile is True
    if ctx.time is not None:
        steps = count_steps(ctx.data.train_count, ctx.plan.batch_size)
        if stage.compile == "auto" and not needs_features(stage):
            probe = partial(probe_training, model, stage, ctx)
            compiled = ctx.time.should_compile(probe, stage.length * steps)

        def probe_epochs(cached: bool) -> AbstractContextManager[Trainer]:
            timed = _without_teacher(stage) if cached else stage
            return probe_training(model, timed, ctx, compiled)

        epochs = ctx.time.fit_epochs(probe_epochs, steps, _epochs_until_cached(stage, ctx))
        if not epochs:
            # No time is left, and the model has been trained before.
            return TrainResult(model.eval(), 0.0)
        if ctx.time.seconds is not None:
            stage = replace(stage, views=fit_views(stage.views, epochs))
        return build_trainer(model, replace(stage, epochs=epochs), ctx, compiled).fit()
    return build_trainer(model, stage, ctx, compiled).fit()


def build_trainer(
    model: nn.Module, stage: Train, ctx: StageContext, compiled: bool = False, lr_scale: float = 1.0
) -> Trainer:
    """Build the trainer of a stage, with the parameters frozen that the stage freezes.

    `compiled` and `lr_scale` are those of `compress.training.trainer.Trainer`.
    """
    recipe, data = ctx.recipe, ctx.data
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if stage.freeze == "backbone":
        freeze_backbone(model)
    objective = _build_objective(model, stage, ctx)
    views = stage.views if ctx.teacher is not None and uses_logits(stage) else 0

    def batches(epoch: int) -> Iterator[Batch]:
        cycle = views if getattr(objective, "uses_teacher", True) else 0
        return training_batches(
            data,
            stage.augment(ctx.mirrors),
            encode_targets=ctx.plan.task.encode_targets,
            seed=recipe.seed,
            view=epoch % cycle if cycle else epoch,
            batch_size=ctx.plan.batch_size,
            shard=distributed.shard(),
            chances=ctx.plan.chances,
        )

    return Trainer(
        model,
        objective,
        stage,
        batches=batches,
        steps_per_epoch=count_steps(data.train_count, ctx.plan.batch_size),
        # Early-stopped KD compares with a teacher that was scored on all validation images.
        validate=ctx.validate if stage.stop_at_teacher else ctx.estimate,
        seed=recipe.seed,
        state=ctx.state,
        events=ctx.events,
        image_size=ctx.step.image_size,
        compiled=compiled,
        lr_scale=lr_scale,
    )


@contextmanager
def probe_training(
    model: nn.Module, stage: Train, ctx: StageContext, compiled: bool
) -> Iterator[Trainer]:
    """Open a trainer on a copy of `model` for timing; it learns nothing and leaves no trace."""
    with TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        aside = replace(
            ctx, state=Path(folder) / "probe.state", logits_dir=Path(folder), events=RunEvents()
        )
        endless = replace(stage, epochs=ENDLESS)
        yield build_trainer(copy.deepcopy(model), endless, aside, compiled, lr_scale=0.0)


def _without_teacher(stage: Train) -> Train:
    """Return `stage` on labels alone, which costs as much as with cached logits."""
    return replace(stage, method="labels", alpha=0.0, stop_at_teacher=False)


def _epochs_until_cached(stage: Train, ctx: StageContext) -> float:
    if ctx.teacher is None:
        return math.inf
    return epochs_until_cached(stage, _samples_per_view(ctx), *_logits_shape(ctx))


def _build_objective(student: nn.Module, stage: Train, ctx: StageContext) -> Objective:
    task = ctx.plan.task
    labels = Labels(task, stage.label_smoothing)
    if ctx.teacher is None:
        return labels
    # An objective may have parameters of its own.
    torch.manual_seed(ctx.recipe.seed)
    teacher = ctx.teacher
    objective = build_objective(
        stage,
        task,
        teacher,
        (student, ctx.step.image_size),
        lambda: _open_logits_cache(teacher, stage, ctx),
        ctx.sample_batches(ctx.plan.batch_size, ctx.plan.batch_size),
    )
    if not stage.stop_at_teacher:
        return objective
    return EarlyStoppedKD(objective, labels, teacher.val_accuracy)


def _open_logits_cache(teacher: Teacher, stage: Train, ctx: StageContext) -> LogitsCache:
    """Open the cache of a teacher's logits, in a folder named after all that they depend on."""
    recipe, data = ctx.recipe, ctx.data
    views = [data.checksum, data.image_size, data.mean, data.std]
    views += [data.crop_ratio, data.background, data.least_area, data.grey]
    views += [asdict(stage.augment(ctx.mirrors)), recipe.seed, ctx.plan.batch_size]
    if ctx.plan.chances is not None:
        views += ["sampler"]
    network = [teacher.image_size, _fingerprint(teacher.model)]
    arithmetic = [ctx.device.type, has_fast_bfloat16(ctx.device), package_versions()]
    key = distributed.broadcast([*views, *network, *arithmetic])
    folder = ctx.logits_dir / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    forward = make_teacher(fuse_conv_bn(teacher.model), teacher.image_size)
    samples, shape = _samples_per_view(ctx), _logits_shape(ctx)
    if stage.views and not fits_cache(stage.views, samples, *shape):
        ctx.events.log(
            f"  the logits of {stage.views} views are more than the {CAPACITY / 2**30:g} GiB of the"
            " cache: for the rest, the teacher runs in every epoch"
        )
    return LogitsCache(forward, folder, samples, *shape)


def _logits_shape(ctx: StageContext) -> tuple[int, ...]:
    """Return the shape of the logits of one image, at the size of the batches."""
    return ctx.plan.task.output_shape(1, ctx.data.image_size)[1:]


def _samples_per_view(ctx: StageContext) -> int:
    batch_size, images = ctx.plan.batch_size, ctx.data.train_count
    return count_steps(images, batch_size) * min(batch_size, images)


def _fingerprint(model: nn.Module) -> str:
    # The same weights may belong to another architecture.
    digest = hashlib.sha256(repr(model).encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
