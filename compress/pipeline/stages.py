"""Stages: one function for each kind, which takes a model and gives back a model.

To add a kind: its keys in `compress.recipe.stages` (a dataclass in `Stage` and `STAGE_TYPES`, or a
value of `Train.kind`), and a function in `STAGES` below.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.deployment.export import describe_versions
from compress.deployment.formats import get_format
from compress.deployment.load_model import load_model
from compress.models import checkpoint
from compress.models.build import build, builder_of
from compress.models.cost import measure_cost
from compress.models.memory_format import to_channels_last
from compress.pipeline.context import StageContext
from compress.pipeline.provenance import build_checkpoint
from compress.pipeline.train_stage import train_model
from compress.pruning.batch_norm import reestimate_batchnorm
from compress.pruning.clock import Clock
from compress.pruning.depth import choose_blocks, remove_the_same
from compress.pruning.file_size import prune_to_file_size
from compress.pruning.importance import Loss
from compress.pruning.latency import Log, prune_to_latency
from compress.pruning.pruner import PruneOptions
from compress.pruning.structure import add_latency
from compress.pruning.unstructured import hold_zeros, prune_weights, release_zeros
from compress.quantization.quantize import (
    check_drop,
    quantize_network,
    save_int8,
)
from compress.recipe.budget import Limits
from compress.recipe.model_spec import ModelSpec
from compress.recipe.registry import IMPORTANCES
from compress.runtime import distributed
from compress.runtime.errors import UserError
from compress.training.forward import make_forward


@dataclass(frozen=True)
class StageOutput:
    """The output of a stage.

    Args:
        model: in evaluation mode.
        epochs: trained, if the stage trains.
        seconds: spent on training, without interruptions.
        delivered: what the stage delivers and is scored, where that is not the model.
    """

    model: nn.Module
    epochs: float = 0
    seconds: float = 0.0
    delivered: nn.Module | None = None


def run_stage(model: nn.Module | None, ctx: StageContext) -> StageOutput:
    """Run the context's stage on the model of the stage before it; the first stage gets None.

    Raises:
        UserError: the stage fails.
    """
    if ctx.step.trained is not None:
        return StageOutput(ctx.plan.place(copy.deepcopy(ctx.step.trained.model), ctx.step))
    return STAGES[ctx.step.kind](model, ctx)


def teach(model: nn.Module | None, ctx: StageContext) -> StageOutput:
    """Train the teacher on the labels, from scratch or from pretrained weights."""
    return _train(_build_network(ctx.recipe.teacher, ctx), ctx)


def distill(model: nn.Module | None, ctx: StageContext) -> StageOutput:
    """Train the student on the labels and the teacher's outputs."""
    return _train(_build_network(ctx.recipe.student, ctx), ctx)


def finetune(model: nn.Module | None, ctx: StageContext) -> StageOutput:
    """Train a pruned network on the labels and its teacher's outputs; pruned weights stay zero."""
    if model is None:
        raise UserError("a finetune stage needs a model: put it after 'distill'")
    if not ctx.step.sparse:
        return _train(model, ctx)
    hold_zeros(model)
    output = _train(model, ctx)
    release_zeros(output.model)
    return output


def prune(model: nn.Module | None, ctx: StageContext) -> StageOutput:
    """Prune to the step's target, then re-estimate the batch norms.

    In a distributed run the main process prunes, and sends the others the result.
    """
    if model is None or ctx.step.target is None:
        raise UserError("a prune stage needs a model and a target: put it after 'distill'")
    if distributed.world_size() == 1:
        return StageOutput(_prune_model(model, ctx))
    kept = None
    if distributed.is_main():
        pruned = _prune_model(model, ctx)
        kept = checkpoint.to_dict(build_checkpoint(pruned, ctx.step, ctx.data, {}))
    content, builder = distributed.broadcast(kept or {}), builder_of(ctx.step.network)
    received = checkpoint.from_dict(content, builder).model
    return StageOutput(ctx.plan.place(received, ctx.step))


def quantize(model: nn.Module | None, ctx: StageContext) -> StageOutput:
    """Write the network as int8 beside the stage's weights file; the model stays as it is.

    In a distributed run the main process quantizes.
    """
    stage = ctx.step.quantize
    if model is None or stage is None:
        raise UserError("a quantize stage needs a model: put it last")
    if distributed.is_main():
        plain = checkpoint.to_dict(build_checkpoint(model, ctx.step, ctx.data, {}))
        plain["origin"] = {"data_checksum": ctx.data.checksum}
        known = checkpoint.from_dict(plain, builder_of(ctx.step.network))
        origin = describe_versions(known, get_format("onnx"))
        made = quantize_network(
            known,
            ctx.data,
            finetune=stage.finetune,
            origin=origin,
            log=lambda line: ctx.events.log(f"  {line}"),
        )
        check_drop(made, stage.max_drop)
        save_int8(made, ctx.int8_file)
        ctx.events.log(f"  {made.describe()}")
    # The others wait for the file.
    distributed.broadcast(True)
    return StageOutput(model, delivered=load_model(ctx.int8_file).model)


STAGES: dict[str, Callable[[nn.Module | None, StageContext], StageOutput]] = {
    "teach": teach,
    "distill": distill,
    "prune": prune,
    "finetune": finetune,
    "quantize": quantize,
}


def _train(model: nn.Module, ctx: StageContext) -> StageOutput:
    result = train_model(model, ctx)
    return StageOutput(result.model, result.epochs, result.seconds)


def _build_network(spec: ModelSpec, ctx: StageContext) -> nn.Module:
    torch.manual_seed(ctx.recipe.seed)
    model = build(spec, len(ctx.data.classes), input_size=ctx.step.input_size)
    return ctx.plan.place(model, ctx.step)


def _prune_model(model: nn.Module, ctx: StageContext) -> nn.Module:
    step, stage, target = ctx.step, ctx.step.prune, ctx.step.target
    assert stage is not None and target is not None
    torch.manual_seed(ctx.recipe.seed)
    size = (step.channels, ctx.plan.image_size, ctx.plan.image_size)
    clock = ctx.clock
    cost = add_latency(measure_cost(model, size, step.sparse), model, clock)
    last = clock is not None and ctx.plan.is_last_cut(step)
    if target.fits(cost) and not (last and clock and clock.measure(model)[1] > 1):
        # Channels are coarse: an earlier round may already have reached this target.
        return model
    few = IMPORTANCES.load(stage.importance).batch_size or ctx.plan.batch_size
    losses = [_loss_on(batch, ctx) for batch in ctx.sample_batches(stage.samples, few)]
    if stage.mode == "weights":
        pruned = prune_weights(
            model, target.params or 0, importance=stage.importance, losses=losses
        )
        pruned = to_channels_last(pruned).to(ctx.device)
    else:
        pruned = _prune_channels(model, target, size, losses, clock if last else None, ctx)
    _reestimate(pruned, ctx)
    return pruned.eval()


def _prune_channels(
    model: nn.Module,
    target: Limits,
    size: tuple[int, int, int],
    losses: list[Loss],
    measured: Clock | None,
    ctx: StageContext,
) -> nn.Module:
    """Prune to the target, whose time is measured if there is a clock to measure it with."""
    step, stage = ctx.step, ctx.step.prune
    assert stage is not None
    example = torch.zeros(1, *size, device=ctx.device)

    def cut(model: nn.Module, limits: Limits, log: Log = lambda line: None) -> nn.Module:
        if limits.fits(add_latency(measure_cost(model, size), model, ctx.clock)):
            # What is left of a network without some of its blocks.
            return model
        original = None if ctx.original is None else remove_the_same(ctx.original, model)
        options = PruneOptions(stage.importance, losses, original, stage.round_to, clock=ctx.clock)
        free, enough = ctx.plan.free_bytes(step), ctx.plan.enough_bytes
        return prune_to_file_size(model, example, limits, free, options, log, enough)

    def log(line: str) -> None:
        ctx.events.log(f"  {line}")

    @torch.no_grad()
    def loss(pruned: nn.Module) -> float:
        _reestimate(pruned, ctx)
        return statistics.mean(float(each(pruned.eval())) for each in losses)

    if ctx.recipe.depth:
        model = choose_blocks(model, example, partial(cut, limits=target), loss, ctx.events)
    return prune_to_latency(model, target, measured, partial(cut, model), log)


def _reestimate(model: nn.Module, ctx: StageContext) -> None:
    assert ctx.step.prune is not None
    batches = ctx.sample_batches(ctx.step.prune.samples, ctx.plan.batch_size)
    forward = make_forward(model, ctx.step.image_size)
    reestimate_batchnorm(model, forward, (batch.images for batch in batches))


def _loss_on(batch: Batch, ctx: StageContext) -> Callable[[nn.Module], Tensor]:
    def loss(model: nn.Module) -> Tensor:
        logits = make_forward(model, ctx.step.image_size, exact=True)(batch.images)
        return ctx.plan.task.label_loss(logits, batch.targets)

    return loss
