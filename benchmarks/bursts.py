"""The two sides of `speed.py`, and the clock: each trains in short bursts, of which so many steps are timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import plain
import torch
from busy import covered, kernels
from torch import nn
from torch.profiler import ProfilerActivity, profile

from compress.data.cache import cache_root
from compress.data.dataset import Dataset, open_dataset
from compress.models.build import build
from compress.pipeline.context import Guide, StageContext, on_device, side
from compress.pipeline.pretrained import load_step
from compress.pipeline.stages import perform
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Recipe, Train
from compress.training.events import Events, T

WARM = (
    3  # steps of a burst before its clock starts: caches fill, workers read ahead, networks compile
)

Training = Callable[[Events], object]  # trains until the events ends it


class Enough(Exception):
    """Ends a burst."""


class Stopwatch(Events):
    """Takes the time of `steps` steps, after those that warm up, and ends the training.

    With a `trace` it also finds out in which share of that time the GPU was at work.
    """

    def __init__(self, steps: int, device: torch.device, trace: profile | None = None) -> None:
        self.steps, self.device, self.trace = steps, device, trace
        self.rate = self.busy = float("nan")  # images a second; 0 to 1

    def progress(self, batches: Iterable[T], total: int, label: str) -> Iterator[T]:
        images, began = 0, 0.0
        for step, batch in enumerate(batches, start=1):
            yield batch
            if step == WARM:
                if self.trace is not None:
                    self.trace.start()
                began = self._now()
            elif step > WARM:
                images += len(batch[0])  # type: ignore[index]
            if step == WARM + self.steps:
                seconds = self._now() - began
                self.rate = images / seconds
                if self.trace is not None:
                    self.trace.stop()
                    self.busy = covered(kernels(self.trace.events())) / 1e6 / seconds
                raise Enough

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # a GPU is given work long before it does it
        return time.perf_counter()


@dataclass(frozen=True)
class Setting:
    """What all rows share. Ours and the plain script each find their data, as they do it.

    Args:
        name: of the recipe.
        weights: the pruned network that is fine-tuned.
        workers: processes of the plain script's DataLoader; ours has none where the images fit into memory.
        compiled: whether a compiled network is measured too.
        folder: for the teacher's kept answers.
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
    def data(self) -> Dataset:
        """As a run opens it."""
        recipe = self.recipe
        data = open_dataset(
            recipe.data,
            size=recipe.image_size,
            limit=recipe.max_images,
            share=recipe.data_fraction,
            seed=recipe.seed,
        )
        return replace(data, train=data.train.to(self.device), val=data.val.to(self.device))

    def stage(self, kind: str) -> Train:
        """The recipe's last stage of `kind`, not compiled; for fine-tuning with the teacher's answers to one view."""
        stage = next(
            s for s in reversed(self.recipe.stages) if isinstance(s, Train) and s.kind == kind
        )
        stage = replace(stage, compile=False)
        return replace(stage, scale=1.0, alpha=0.5, views=1) if kind == "finetune" else stage

    def ours(self, stage: Train, student: ModelSpec | None = None, kept: bool = False) -> Training:
        """A stage of a run, at work on the recipe's `student` or another; with the teacher's answers `kept` or not."""
        recipe = replace(self.recipe, student=student or self.recipe.student)

        def training(events: Events) -> None:
            with TemporaryDirectory() as aside:
                answers = self.folder if kept else Path(aside)
                ctx = StageContext(
                    recipe, self.data, self.device, events, Path(aside) / "state", answers
                )
                if stage.kind != "teach":
                    teacher = on_device(
                        self._random(recipe.teacher, len(self.data.classes)), self.device
                    )
                    ctx = replace(ctx, guide=Guide(teacher, side(self.stage("teach"), self.data)))
                pruned = (
                    on_device(self._pruned(), self.device) if stage.kind == "finetune" else None
                )
                perform(pruned, stage, ctx)

        return training

    def plain(
        self, kind: str, student: ModelSpec | None = None, train: Callable[..., None] = plain.train
    ) -> Training:
        """The same work as the plain script does it, or another loop over its batches; always at the images' full size.

        `train` is called with the student, the DataLoader, the teacher, the events and the device.
        """

        def training(events: Events) -> None:
            recipe, crop = self.recipe, self.stage(kind).crop or (1.0, 1.0)
            images = plain.images(recipe.data, cache_root(), recipe.image_size, crop)
            teacher = self._random(recipe.teacher, len(images.classes))
            model = {
                "teach": lambda: teacher,
                "distill": lambda: self._random(student or recipe.student, len(images.classes)),
                "finetune": self._pruned,
            }[kind]()
            loader = plain.load(images, recipe.batch_size, self.workers, self.device)
            train(model, loader, None if kind == "teach" else teacher, events, self.device)

        return training

    def _random(self, network: ModelSpec, classes: int) -> nn.Module:
        torch.manual_seed(self.recipe.seed)
        return build(replace(network, pretrained=False), classes)

    def _pruned(self) -> nn.Module:
        return load_step(self.weights, self.recipe.student).model

    def rate(self, training: Training) -> float:
        """Images a second of a burst of `training`."""
        return self._burst(training, Stopwatch(self.steps, self.device)).rate

    def busy(self, training: Training) -> float:
        """The share of a burst of `training`, 0 to 1, in which the GPU is at work."""
        trace = profile(activities=[ProfilerActivity.CUDA])
        return self._burst(training, Stopwatch(self.steps, self.device, trace)).busy

    def _burst(self, training: Training, stopwatch: Stopwatch) -> Stopwatch:
        with suppress(Enough):
            training(stopwatch)
        return stopwatch


def taking_turns(setting: Setting, ours: Training, theirs: Training) -> list[tuple[float, float]]:
    """Images a second of both, burst by burst; each goes first every other time."""
    pairs = []
    for number in range(setting.repeats):
        if number % 2:
            second = setting.rate(theirs)
            pairs.append((setting.rate(ours), second))
        else:
            pairs.append((setting.rate(ours), setting.rate(theirs)))
    return pairs
