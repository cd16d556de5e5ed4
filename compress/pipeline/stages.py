"""The stages of a pipeline: each takes a model and gives back a model, in a few lines that call the rooms below."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.data.dataset import Dataset
from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pipeline.context import Given, StageContext, on_device, sample, side
from compress.pipeline.train_stage import learn
from compress.pruning.batch_norm import reestimate_batchnorm
from compress.pruning.file_size import prune_to_file_size
from compress.pruning.pruner import PruneOptions
from compress.pruning.unstructured import hold_zeros, prune_weights, release_zeros
from compress.recipe.model_spec import ModelSpec
from compress.recipe.registry import IMPORTANCES
from compress.recipe.schema import Prune, Stage, Train
from compress.runtime.errors import UserError
from compress.training.trainer import forward


def teach_stage(model: nn.Module | None, stage: Train, ctx: StageContext) -> nn.Module:
    """Train the teacher, from scratch or from pretrained weights, on the labels."""
    return learn(_build(ctx, ctx.recipe.teacher), stage, ctx)


def distill_stage(model: nn.Module | None, stage: Train, ctx: StageContext) -> nn.Module:
    """Train the student on the labels and on what the teacher says."""
    return learn(_build(ctx, ctx.recipe.student), stage, ctx)


def prune_stage(model: nn.Module | None, stage: Prune, ctx: StageContext) -> nn.Module:
    """Remove channels, or single weights, until the round's target is met, then measure the batch norms anew."""
    if model is None or ctx.target is None:
        raise UserError("a prune stage needs a model and a target: put it after 'distill'")
    torch.manual_seed(ctx.recipe.seed)
    size, final = side(stage, ctx.data), (3, ctx.final, ctx.final)
    if ctx.target.fits(
        measure_cost(model, final, ctx.sparse)
    ):  # an earlier round went a step further than it had to
        return model
    few = IMPORTANCES.load(stage.importance).batch_size or ctx.recipe.batch_size
    losses = [_loss_on(batch, size) for batch in sample(ctx, stage.samples, few)]
    if stage.mode == "weights":
        pruned = prune_weights(
            model, ctx.target.params or 0, importance=stage.importance, losses=losses
        )
        pruned = on_device(pruned, ctx.device)
    else:
        pruned = prune_to_file_size(
            model,
            torch.zeros(1, *final, device=ctx.device),
            ctx.target,
            ctx.room,
            PruneOptions(stage.importance, losses, ctx.uncut, stage.round_to),
            log=lambda line: ctx.events.log(f"  {line}"),
        )
    images = (batch.images for batch in sample(ctx, stage.samples, ctx.recipe.batch_size))
    reestimate_batchnorm(pruned, forward(pruned, size), images)
    return pruned.eval()


def finetune_stage(model: nn.Module | None, stage: Train, ctx: StageContext) -> nn.Module:
    """Train what pruning left, on the labels and on what its guide says."""
    if model is None:
        raise UserError("a finetune stage needs a model: put it after 'distill'")
    if not ctx.sparse:
        return learn(model, stage, ctx)
    hold_zeros(model)
    trained = learn(model, stage, ctx)
    release_zeros(trained)
    return trained


def perform(model: nn.Module | None, stage: Stage | Given, ctx: StageContext) -> nn.Module:
    """Do one stage: a model (none, for the first) in, a model out."""
    if isinstance(stage, Given):
        return on_device(stage.checkpoint.model, ctx.device)
    if isinstance(stage, Prune):
        return prune_stage(model, stage, ctx)
    does = {"teach": teach_stage, "distill": distill_stage, "finetune": finetune_stage}
    return does[stage.kind](model, stage, ctx)


def pack(
    model: nn.Module,
    stage: Stage | Given,
    network: ModelSpec,
    data: Dataset,
    origin: dict[str, object],
    sparse: bool = False,
) -> Checkpoint:
    """A stage's model with all that it needs to be used."""
    if isinstance(stage, Given):
        return stage.checkpoint
    return Checkpoint(
        model=model,
        network=network,
        classes=data.classes,
        input_size=(3, side(stage, data), side(stage, data)),
        mean=data.mean,
        std=data.std,
        data=data.name,
        origin=origin,
        sparse=sparse,
    )


def _build(ctx: StageContext, network: ModelSpec) -> nn.Module:
    torch.manual_seed(ctx.recipe.seed)
    model = build(network, len(ctx.data.classes))
    return on_device(model, ctx.device)


def _loss_on(batch: Batch, size: int | None) -> Callable[[nn.Module], Tensor]:
    return lambda model: F.cross_entropy(
        forward(model, size, exact=True)(batch.images), batch.targets
    )
