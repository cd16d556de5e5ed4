"""The stages of a pipeline: each takes a model and gives back a model, in a few lines that call the rooms below."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import processes
from compress.budget import Limits
from compress.checkpoint import Checkpoint
from compress.data.batches import Augment, Batch, plain_batches, training_batches
from compress.data.open import Data
from compress.distill.labels import Labels
from compress.distill.methods import METHODS, Sized, objective
from compress.distill.outgrown import Outgrown
from compress.distill.targets import Targets
from compress.errors import UserError
from compress.models.build import build
from compress.models.fold import folded
from compress.models.head import freeze_backbone
from compress.models.network import Network
from compress.pruning.filesize import prune_to
from compress.pruning.importance import IMPORTANCES
from compress.pruning.pruner import reestimate_batchnorm
from compress.pruning.weights import hold_zeros, prune_weights, release_zeros
from compress.recipe import Prune, Recipe, Stage, Train
from compress.summary import count
from compress.training import Objective, Schedule, accuracy, forward, steps_of, teach, train
from compress.watch import Watch

Rehearsal = Callable[[Watch, Path], object]  # trains a copy until the watch ends it; its files go into the folder
Rehearsals = Callable[[bool], Rehearsal]  # of the training as it is, and as it is if something is so


@dataclass(frozen=True)
class Given:
    """In the place of a `teach` or a `distill` stage: a network that is trained already, from `file`."""

    checkpoint: Checkpoint
    file: str
    kind: Literal["teach", "distill"]

    @property
    def role(self) -> Literal["teacher", "student"]:
        """Whose place it takes."""
        return "teacher" if self.kind == "teach" else "student"

    @property
    def size(self) -> int:
        """The side of the images that it was trained on, in pixels."""
        return self.checkpoint.input_size[-1]


@dataclass(frozen=True)
class Workbench:
    """What every stage works with.

    Args:
        teacher: the guide of a training stage, if it has one; made for images of `teacher_size` pixels a side.
        teacher_val: its validation accuracy, 0 to 1.
        reached: that of the student when it was last trained; 0 if it never was.
        target: what this round of pruning aims at, for a prune stage.
        room: for the last of them, the bytes that the run's file would have left with a model, if it has a budget.
        sparse: whether the model is pruned weight by weight, now or before.
        final: side of the images that the pipeline's result is made for, in pixels: multiply-adds are counted there.
        state: the file in which a training stage keeps what it needs to go on after a kill.
        answers: the folder for the kept answers of teachers.
        fit: how many epochs a training stage gets, from rehearsals (its guide answers; its answers are kept), the steps
            of an epoch, and after how many epochs all answers are kept; if None, as many as the recipe says.
        pays: whether to compile, from rehearsals (plain, compiled) and the steps in all, where the recipe leaves that
            open; if None, no.
    """

    recipe: Recipe
    data: Data
    device: torch.device
    watch: Watch
    state: Path
    answers: Path
    teacher: nn.Module | None = None
    teacher_size: int | None = None
    teacher_val: float = 1.0
    reached: float = 0.0
    target: Limits | None = None
    room: Callable[[nn.Module], int] | None = None
    sparse: bool = False
    final: int = 0
    fit: Callable[[Rehearsals, int, float], float] | None = None
    pays: Callable[[Rehearsals, float], bool] | None = None

    def validate(self, model: nn.Module, size: int) -> float:
        """Top-1 accuracy of `model` on the validation split, at `size` pixels, 0 to 1."""
        batches = plain_batches(self.data, self.data.val, batch=500, part=processes.part())
        return accuracy(model, batches, size=size, exact=False)


def teach_stage(model: nn.Module | None, stage: Train, bench: Workbench) -> nn.Module:
    """Train the teacher, from scratch or from pretrained weights, on the labels."""
    return _train(_build(bench, bench.recipe.teacher), stage, bench)


def distill_stage(model: nn.Module | None, stage: Train, bench: Workbench) -> nn.Module:
    """Train the student on the labels and on what the teacher says."""
    return _train(_build(bench, bench.recipe.student), stage, bench)


def prune_stage(model: nn.Module | None, stage: Prune, bench: Workbench) -> nn.Module:
    """Remove channels, or single weights, until the round's target is met, then measure the batch norms anew."""
    if model is None or bench.target is None:
        raise UserError("a prune stage needs a model and a target: put it after 'distill'")
    size, final = side(stage, bench.data), (3, bench.final, bench.final)
    if bench.target.hold(count(model, final, bench.sparse)):  # an earlier round went a step further than it had to
        return model
    few = IMPORTANCES[stage.importance].batch or bench.recipe.batch
    losses = [_loss_on(batch, size) for batch in _sample(bench, stage.samples, few)]
    if stage.mode == "weights":
        pruned = prune_weights(model, bench.target.params or 0, importance=stage.importance, losses=losses)
        pruned = on_device(pruned, bench.device)
    else:
        pruned = prune_to(
            model,
            torch.zeros(1, *final, device=bench.device),
            bench.target,
            room=bench.room,
            importance=stage.importance,
            losses=losses,
            whole=_build(bench, replace(bench.recipe.student, pretrained=False)),
            multiple=stage.multiple,
            note=lambda text: bench.watch.note(f"  {text}"),
        )
    images = (batch.images for batch in _sample(bench, stage.samples, bench.recipe.batch))
    reestimate_batchnorm(pruned, forward(pruned, size), images)
    return pruned.eval()


def finetune_stage(model: nn.Module | None, stage: Train, bench: Workbench) -> nn.Module:
    """Train what pruning left, on the labels and on what its guide says."""
    if model is None:
        raise UserError("a finetune stage needs a model: put it after 'distill'")
    if not bench.sparse:
        return _train(model, stage, bench)
    hold_zeros(model)
    trained = _train(model, stage, bench)
    release_zeros(trained)
    return trained


def perform(model: nn.Module | None, stage: Stage | Given, bench: Workbench) -> nn.Module:
    """Do one stage: a model (none, for the first) in, a model out."""
    if isinstance(stage, Given):
        return on_device(stage.checkpoint.model, bench.device)
    if isinstance(stage, Prune):
        return prune_stage(model, stage, bench)
    does = {"teach": teach_stage, "distill": distill_stage, "finetune": finetune_stage}
    return does[stage.kind](model, stage, bench)


def pack(
    model: nn.Module,
    stage: Stage | Given,
    network: Network,
    data: Data,
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


def side(stage: Stage | Given, data: Data) -> int:
    """The side of the images that a stage's model is made for, in pixels."""
    return stage.size if isinstance(stage, Given) else max(1, round(data.size * stage.scale))


def on_device(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` on `device`, laid out channels last as convolutions are fastest."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return model.to(device)


def _build(bench: Workbench, network: Network) -> nn.Module:
    torch.manual_seed(bench.recipe.seed)
    model = build(network, len(bench.data.classes))
    return on_device(model, bench.device)


def _train(model: nn.Module, stage: Train, bench: Workbench) -> nn.Module:
    """Train `model` on the labels, and on what its guide says if there is one."""
    recipe, data = bench.recipe, bench.data
    augment, steps, part = _augment(stage), steps_of(len(data.train), recipe.batch), processes.part()

    def learn(model: nn.Module, stage: Train, schedule: Schedule, bench: Workbench, compiled: bool) -> nn.Module:
        goal = _objective(model, stage, bench)

        def batches(epoch: int) -> Iterator[Batch]:
            kept = stage.views if getattr(goal, "listens", True) else 0  # what nobody answers need not come again
            view = epoch % kept if kept else epoch
            return training_batches(data, augment, seed=recipe.seed, view=view, batch=recipe.batch, part=part)

        return train(
            model,
            batches,
            goal,
            schedule,
            steps=steps,
            validate=lambda trained: bench.validate(trained, side(stage, data)),
            seed=recipe.seed,
            state=bench.state,
            watch=bench.watch,
            size=side(stage, data),
            compiled=compiled,
        )

    def rehearse(stage: Train, compiled: bool, watch: Watch, folder: Path) -> None:
        still = replace(schedule, epochs=1_000_000, lr=0.0)  # the time is the same, and no loss becomes infinite
        aside = replace(bench, watch=watch, state=folder / "rehearsal.state", answers=folder)
        learn(copy.deepcopy(model), stage, still, aside, compiled)

    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if stage.freeze == "backbone":
        freeze_backbone(model)
    schedule = Schedule(stage.epochs, stage.optimizer, stage.lr, stage.weight_decay, stage.warmup, stage.ema)
    compiled = stage.compile is True
    if stage.compile == "auto" and bench.pays is not None and METHODS[stage.method].of_maps is None:
        compiled = bench.pays(lambda compiled: partial(rehearse, stage, compiled), stage.epochs * steps)
    if bench.fit is not None:
        told = replace(stage, method="labels", alpha=0.0, outgrow=False)  # to read an answer takes no time
        answers = bench.teacher is not None and METHODS[stage.method].of_maps is None
        asked = stage.views if answers and stage.views else math.inf
        epochs = bench.fit(lambda kept: partial(rehearse, told if kept else stage, compiled), steps, asked)
        schedule = replace(schedule, epochs=epochs)
    return learn(model, stage, schedule, bench, compiled)


def _objective(student: nn.Module, stage: Train, bench: Workbench) -> Objective:
    if bench.teacher is None or bench.teacher_size is None:
        return Labels(stage.label_smoothing)
    torch.manual_seed(bench.recipe.seed)  # an objective may have weights of its own
    teacher = Sized(bench.teacher, bench.teacher_size)
    example = _sample(bench, bench.recipe.batch, bench.recipe.batch)
    made = objective(stage, teacher, Sized(student, side(stage, bench.data)), lambda: _answers(stage, bench), example)
    if not stage.outgrow:
        return made
    return Outgrown(made, Labels(stage.label_smoothing), bench.teacher_val, bench.reached)


def _answers(stage: Train, bench: Workbench) -> Targets:
    assert bench.teacher is not None
    recipe, data = bench.recipe, bench.data
    samples = steps_of(len(data.train), recipe.batch) * min(recipe.batch, len(data.train))
    shown = [data.checksum, data.size, data.mean, data.std, asdict(_augment(stage)), recipe.seed, recipe.batch]
    what = [*shown, bench.teacher_size, _fingerprint(bench.teacher)]
    folder = bench.answers / hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
    return Targets(teach(folded(bench.teacher), bench.teacher_size), folder, samples, len(data.classes))


def _augment(stage: Train) -> Augment:
    return Augment(stage.crop, stage.flip, stage.mixup, stage.cutmix, stage.mix)


def _sample(bench: Workbench, samples: int, size: int) -> Iterator[Batch]:
    """The first `samples` training images of a view that no epoch sees, lightly augmented, `size` at a time."""
    augment = Augment(crop=None)
    size = min(size, samples)
    batches = training_batches(bench.data, augment, seed=bench.recipe.seed, view=2**31, batch=size)
    for _, batch in zip(range(max(samples // size, 1)), batches, strict=False):
        yield batch


def _loss_on(batch: Batch, size: int | None) -> Callable[[nn.Module], Tensor]:
    return lambda model: F.cross_entropy(forward(model, size, exact=True)(batch.images), batch.targets)


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.sha256(repr(model).encode())  # the same weights may stand in another network
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
