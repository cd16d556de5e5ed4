"""The context of a stage: everything that it works with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from compress.data.batches import Batch, plain_batches, training_batches
from compress.data.dataset import Dataset
from compress.deployment.measurements import Measurements
from compress.distillation.method import Teacher
from compress.pipeline.events import RunEvents
from compress.pipeline.plan import Plan
from compress.pipeline.step import Step
from compress.pipeline.time_budget import StageTime
from compress.pruning.clock import Clock
from compress.recipe.schema import Recipe
from compress.recipe.stages import Augment
from compress.runtime import distributed
from compress.training.evaluate import Scores, measure_scores
from compress.training.mirror import MirrorTest, measure_mirroring

# The view from which pruning takes its samples; no epoch reaches it.
SAMPLE_VIEW = 2**31
# Suffix of a file of measured times, beside the stage's weights file while the stage runs.
TIMES = ".times"

# Validation images that an estimate asks at least, if there are so many.
LEAST_ESTIMATED = 500


@dataclass(frozen=True)
class StageContext:
    """Everything that a stage works with.

    Args:
        plan: the run's plan.
        step: the stage as the plan describes it.
        state: the file from which a training stage resumes.
        logits_dir: folder of the logits cache.
        events: receive progress.
        teacher: the network to distill from, if there is one.
        original: the student before its first cut; layers are kept in proportion to its widths.
        time: the stage's time budget and the decisions that depend on it; if None, epochs are the
            recipe's, and a stage is compiled only if the recipe says so.
        mirrors: what ``flip = "auto"`` stands for.
    """

    plan: Plan
    step: Step
    state: Path
    logits_dir: Path
    events: RunEvents
    teacher: Teacher | None = None
    original: nn.Module | None = None
    time: StageTime | None = None
    mirrors: bool = False

    @property
    def int8_file(self) -> Path:
        """The int8 file of a stage that quantizes."""
        return self.state.with_name(Path(self.step.int8_file).name)

    @cached_property
    def clock(self) -> Clock | None:
        """The plan's clock, which keeps what it measures, so that a resumed cut is the same."""
        if self.plan.clock is None:
            return None
        return replace(self.plan.clock, kept=Measurements(self.state.with_suffix(TIMES)))

    @property
    def recipe(self) -> Recipe:
        """The plan's recipe."""
        return self.plan.recipe

    @property
    def data(self) -> Dataset:
        """The plan's data."""
        return self.plan.data

    @property
    def device(self) -> torch.device:
        """The plan's device."""
        return self.plan.device

    def validate(self, model: nn.Module, every: int = 1) -> float:
        """Return the task's score of `model` on one validation image of `every`, 0 to 1.

        It is NaN if a logit is not finite.
        """
        scores = self.score(model, every)
        return scores.main if scores.finite else math.nan

    def estimate(self, model: nn.Module) -> float:
        """Return an estimate of the validation accuracy of `model`, 0 to 1, for every epoch.

        Where the validation split is larger than a fifth of the training split, only some of its
        images are asked, spread evenly: scoring all would take as long as the epoch itself.
        """
        most = max(self.data.train_count // 5, LEAST_ESTIMATED)
        return self.validate(model, every=math.ceil(self.data.val_count / most))

    def score(self, model: nn.Module, every: int = 1) -> Scores:
        """Return the scores of `model` on the validation split, or one image of `every`."""
        batches = self._validation_batches(every)
        size = self.step.image_size
        return measure_scores(model, batches, self.plan.task, image_size=size, exact=False)

    def measure_mirroring(self, model: nn.Module) -> MirrorTest:
        """Compare `model` on the validation images and on their mirror images."""
        batches = self._validation_batches()
        return measure_mirroring(model, batches, self.plan.task, image_size=self.step.image_size)

    def _validation_batches(self, every: int = 1) -> Iterator[Batch]:
        return plain_batches(
            self.data,
            self.data.val,
            batch_size=self.plan.scored_at_once(self.step),
            shard=distributed.shard(),
            every=every,
        )

    def sample_batches(self, samples: int, batch_size: int) -> Iterator[Batch]:
        """Yield the first training images of a view that no epoch uses, in whole batches.

        They are at least `samples`, or all batches of the view if it has fewer.
        Images are mirrored where the data allows it, but not cropped.
        """
        batch_size = min(batch_size, samples)
        batches = training_batches(
            self.data,
            Augment(crop=None, flip=self.mirrors),
            encode_targets=self.plan.task.encode_targets,
            seed=self.recipe.seed,
            view=SAMPLE_VIEW,
            batch_size=batch_size,
        )
        for _, batch in zip(range(math.ceil(samples / batch_size)), batches, strict=False):
            yield batch
