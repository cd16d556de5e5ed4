"""The two sides of `speed.py`, timed in short bursts of training.

A burst is a few steps of warm-up, then a number of timed steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import plain
import torch
from busy import covered, kernels
from op_times import shares
from torch import nn
from torch.profiler import ProfilerActivity, profile

from compress.data.cache import cache_root
from compress.distillation.method import Teacher
from compress.models.build import build
from compress.models.cost import measure_cost
from compress.models.memory_format import to_channels_last
from compress.pipeline.context import StageContext
from compress.pipeline.events import RunEvents
from compress.pipeline.fit_to_data import MAX_BATCH_SIZE
from compress.pipeline.plan import Plan, make_plan
from compress.pipeline.pretrained import load_checkpoint
from compress.pipeline.train_stage import ENDLESS, build_trainer
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Recipe
from compress.recipe.stages import Train
from compress.runtime.memory import kept_memory

# Steps of a burst before its clock starts: caches fill, workers read ahead, networks compile.
WARM = 3

# Trains, one step at a time: yields the number of images after each step.
Training = Callable[[], Iterator[int]]


def for_bursts(recipe: Recipe, steps: int) -> Recipe:
    """Return `recipe` with as many images as a burst of so many steps takes: one epoch of ours.

    It keeps its stages, and the batches that it has on all of its data, however few the images.
    """
    size = MAX_BATCH_SIZE if recipe.batch_size == "auto" else recipe.batch_size
    images = (WARM + steps) * size
    return replace(recipe, batch_size=size, max_images=images, small_data=None)


@dataclass(frozen=True)
class Burst:
    """Measurements of a burst.

    Args:
        rate: images a second.
        busy: fraction of the time in which the GPU was busy; NaN if it was not traced.
    """

    rate: float
    busy: float = float("nan")


def time_burst(
    training: Training, steps: int, device: torch.device, trace: profile | None = None
) -> Burst:
    """Time `steps` steps of training, after the steps that warm it up."""
    with closing(training()) as images:  # type: ignore[type-var]
        for _ in range(WARM):
            next(images)
        if trace is not None:
            trace.start()
        started = _now(device)
        seen = sum(next(images) for _ in range(steps))
        seconds = _now(device) - started
    if trace is None:
        return Burst(seen / seconds)
    trace.stop()
    events = trace.events()  # type: ignore[no-untyped-call]
    return Burst(seen / seconds, covered(kernels(events)) / 1e6 / seconds)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        # Work is queued on a GPU long before it is done.
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass(frozen=True)
class Setting:
    """The setting that all rows share. Each side reads the data in its own way.

    Args:
        name: name of the recipe.
        weights: weights file of the pruned network that is fine-tuned.
        steps: timed steps of a burst.
        repeats: bursts of each side.
        workers: processes of the plain script's DataLoader; `compress` needs none if the images fit
            into memory.
        compiled: measure compiled networks too.
        folder: folder of the logits cache.
    """

    name: str
    recipe: Recipe
    weights: Path
    device: torch.device
    steps: int
    repeats: int
    workers: int
    compiled: bool
    folder: Path

    @cached_property
    def plan(self) -> Plan:
        """The recipe's plan, with the data as a run opens it."""
        return make_plan(self.recipe, self.device.type)

    def stage(self, kind: str) -> Train:
        """Return the recipe's last stage of `kind`, not compiled.

        For fine-tuning, it trains on one cached view.
        """
        stages = [step.train for step in self.plan.steps if step.train and step.kind == kind]
        stage = replace(stages[-1], compile=False)
        return replace(stage, scale=1.0, alpha=0.5, views=1) if kind == "finetune" else stage

    def ours(
        self, stage: Train, student: ModelSpec | None = None, cached: bool = False
    ) -> Training:
        """Return the training of a run's stage, of the recipe's student or of `student`.

        Args:
            cached: keep the logits cache from burst to burst.
        """

        def training() -> Iterator[int]:
            with TemporaryDirectory() as aside, kept_memory():
                logits_dir = self.folder if cached else Path(aside)
                ctx = self._context(stage, Path(aside) / "state", logits_dir)
                model = to_channels_last(self._model(stage.kind, student)).to(self.device)
                endless = replace(stage, epochs=ENDLESS, steps=None)
                trainer = build_trainer(model, endless, ctx, stage.compile is True)
                for epoch in count():
                    for _ in trainer.steps(epoch):
                        yield min(self.plan.batch_size, self.plan.data.train_count)

        return training

    def plain(
        self,
        kind: str,
        student: ModelSpec | None = None,
        train: Callable[..., Iterator[int]] = plain.train,
    ) -> Training:
        """Return the same training as the plain script does it.

        It always runs at the images' full size. `train` may be another loop over the plain script's
        batches; it is called with the student, the DataLoader, the teacher and the device.
        """

        def training() -> Iterator[int]:
            recipe, crop = self.plan.recipe, self.stage(kind).crop or (1.0, 1.0)
            images = plain.images(recipe.data, cache_root(), recipe.image_size, crop)
            loader = plain.load(images, self.plan.batch_size, self.workers, self.device)
            teacher = None if kind == "teach" else self._random(recipe.teacher)
            return train(self._model(kind, student), loader, teacher, self.device)

        return training

    def rate(self, training: Training) -> float:
        """Return the images a second of a burst of `training`."""
        return time_burst(training, self.steps, self.device).rate

    def busy(self, training: Training) -> float:
        """Return the fraction of a burst of `training` in which the GPU is busy."""
        trace = profile(activities=[ProfilerActivity.CUDA])
        return time_burst(training, self.steps, self.device, trace).busy

    def shares(self, training: Training) -> dict[str, float]:
        """Return the percentages of a burst's time that kinds of operations take on a CPU."""
        trace = profile(activities=[ProfilerActivity.CPU])
        time_burst(training, self.steps, self.device, trace)
        return shares(trace.events())  # type: ignore[no-untyped-call]

    def training_macs(self, kind: str, teacher: bool) -> int:
        """Return the multiply-adds for an image of a training step at full size.

        Args:
            teacher: count a forward pass of the teacher.
        """
        side = self.plan.data.image_size
        shape = (3, side, side)
        # A backward pass takes twice the multiply-adds of a forward pass.
        macs = 3 * measure_cost(self._model(kind, None), shape).macs
        if teacher:
            macs += measure_cost(self._random(self.plan.recipe.teacher), shape).macs
        return macs

    def _context(self, stage: Train, state: Path, logits_dir: Path) -> StageContext:
        steps = [step for step in self.plan.steps if step.kind == stage.kind]
        size = max(1, round(self.plan.data.image_size * stage.scale))
        step = replace(steps[-1], stage=stage, image_size=size)
        ctx = StageContext(self.plan, step, state, logits_dir, RunEvents())
        if stage.kind == "teach":
            return ctx
        taught = next(step for step in self.plan.steps if step.kind == "teach")
        teacher = to_channels_last(self._random(self.plan.recipe.teacher)).to(self.device)
        return replace(ctx, teacher=Teacher(teacher, taught.image_size))

    def _model(self, kind: str, student: ModelSpec | None) -> nn.Module:
        if kind == "finetune":
            return load_checkpoint(self.weights, self.plan.recipe.student).model
        return self._random(
            self.plan.recipe.teacher if kind == "teach" else student or self.plan.recipe.student
        )

    def _random(self, spec: ModelSpec) -> nn.Module:
        torch.manual_seed(self.recipe.seed)
        return build(replace(spec, pretrained=False), len(self.plan.data.classes))


def taking_turns(setting: Setting, ours: Training, theirs: Training) -> list[tuple[float, float]]:
    """Return pairs of images a second, one of each side, burst by burst.

    The side that goes first alternates.
    """
    pairs = []
    for number in range(setting.repeats):
        if number % 2:
            second = setting.rate(theirs)
            pairs.append((setting.rate(ours), second))
        else:
            pairs.append((setting.rate(ours), setting.rate(theirs)))
    return pairs
