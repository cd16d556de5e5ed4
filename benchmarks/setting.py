"""What all rows of `accuracy.py` share in a seed: our run, and what it used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from compress.data.batches import training_batches
from compress.distillation.method import Teacher
from compress.models.memory_format import to_channels_last
from compress.pipeline.context import StageContext
from compress.pipeline.events import RunEvents
from compress.pipeline.manifest import read_results
from compress.pipeline.plan import Plan, make_plan
from compress.pipeline.pretrained import load_checkpoint
from compress.pipeline.run import RunResult, run
from compress.pipeline.step import Step
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Recipe
from compress.runtime.errors import UserError


@dataclass(frozen=True)
class Setting:
    """The setting that all rows of a seed share: our run, and everything that it used.

    Args:
        folder: the directory of our run.
        steps: the plan's steps after `distill`, each with the epochs that our run trained.
        mirrors: whether our run mirrored images where the recipe leaves that to the data.
    """

    folder: Path
    logits_dir: Path
    events: RunEvents
    result: RunResult
    plan: Plan
    teacher: Teacher | None
    steps: tuple[Step, ...]
    mirrors: bool

    @property
    def budget(self) -> int:
        """Largest number of parameters of the final network."""
        return self.plan.limits.params or 0

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.plan.data.classes)

    @property
    def finetunes(self) -> list[Step]:
        """The steps that fine-tune."""
        return [step for step in self.steps if step.train]

    @property
    def ending(self) -> list[Step]:
        """The steps after the last cut."""
        cuts = [place for place, step in enumerate(self.steps) if step.prune]
        return [step for step in self.steps[cuts[-1] :] if step.train]

    @property
    def epochs(self) -> float:
        """Total epochs of fine-tuning."""
        return sum(step.train.length for step in self.finetunes if step.train)

    @property
    def image_size(self) -> int:
        """Side of the images that every row's network takes, in pixels."""
        return self.finetunes[-1].image_size

    def seconds(self, *kinds: str) -> float:
        """Return the duration of our run's stages of `kinds`, by default of all stages."""
        return sum(r.seconds for r in self.result.results if not kinds or r.kind in kinds)

    def student(self) -> nn.Module:
        """Return the distilled student, as it was before our first cut."""
        distilled = next(result for result in self.result.results if result.kind == "distill")
        return self._load(self.folder / distilled.checkpoint, self.plan.recipe.student)

    def final(self) -> nn.Module:
        """Return the final network of our run."""
        return self._load(self.result.model, self.plan.recipe.student)

    def context(self, step: Step, state: Path) -> StageContext:
        """Return the context in which a row trains `step`."""
        return StageContext(
            self.plan,
            step,
            state,
            self.logits_dir,
            self.events,
            teacher=self.teacher,
            mirrors=self.mirrors,
        )

    def view(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a view of the training images, as after our last cut, and its targets."""
        last = self.ending[0].train
        assert last is not None
        for batch in training_batches(
            self.plan.data,
            last.augment(self.mirrors),
            encode_targets=self.plan.task.encode_targets,
            seed=self.plan.recipe.seed,
            view=number,
            batch_size=self.plan.batch_size,
            chances=self.plan.chances,
        ):
            yield batch.images, batch.targets

    def _load(self, path: Path, spec: ModelSpec) -> nn.Module:
        return to_channels_last(load_checkpoint(path, spec).model).to(self.plan.device)


def lay_out(recipe: Recipe, folder: Path, logits_dir: Path, events: RunEvents) -> Setting:
    """Carry out our run of `recipe` in `folder`, unless it is done, and return the setting.

    Raises:
        UserError: the recipe does not end in prune and finetune stages; nothing has been trained by
            then.
    """
    kinds = [stage.kind for stage in recipe.stages]
    if "prune" not in kinds[:-1] or kinds[-1] != "finetune":
        raise UserError("give a recipe that ends in prune and finetune, as the other ways do")
    result = run(recipe, out=folder, events=events)
    plan = make_plan(recipe)
    teacher = None
    as_run: list[Step] = []
    for step, done in zip(plan.steps, result.results, strict=True):
        if step.kind == "teach":
            model = load_checkpoint(folder / step.file, plan.recipe.teacher).model
            model = to_channels_last(model).to(plan.device)
            teacher = Teacher(model, step.image_size, done.val)
        if step.prune:
            as_run.append(step)
        # A stage for which no time was left has 0 epochs.
        elif step.kind == "finetune" and step.train and done.epochs:
            as_run.append(replace(step, stage=replace(step.train, epochs=done.epochs)))
    known = plan.data.mirrors
    mirrors = bool(read_results(folder)[0].get("mirrors") if known is None else known)
    return Setting(folder, logits_dir, events, result, plan, teacher, tuple(as_run), mirrors)
