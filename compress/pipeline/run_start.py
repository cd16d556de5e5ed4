"""A run as it starts: data, networks, budget and stages, for whoever shows or logs it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from compress.pipeline.manifest import StageResult
from compress.pipeline.plan import Plan
from compress.pipeline.stage_costs import image_costs
from compress.recipe.budget import describe_budgets
from compress.recipe.load import recipe_to_dict
from compress.runtime.device import device_name


@dataclass(frozen=True)
class RunStart:
    """A run as it starts, or as it is resumed.

    Args:
        plan: the run's plan.
        out: the run directory.
        results: the results of the stages that an earlier call has done.
        spent: seconds that earlier calls took.
    """

    plan: Plan
    out: Path
    results: tuple[StageResult, ...] = ()
    spent: float = 0.0

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return tuple(step.name for step in self.plan.steps)

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe, fitted to the data, as plain data."""
        return recipe_to_dict(self.plan.recipe)

    @property
    def device(self) -> str:
        """Name of the processor, for a CPU with the number of threads."""
        return device_name(self.plan.device)

    @property
    def images(self) -> dict[str, int]:
        """Number of images of each split; those for the test may be unknown."""
        data = self.plan.data
        counts = {"training": data.train_count, "validation": data.val_count}
        return counts | ({} if data.test_count is None else {"test": data.test_count})

    @property
    def classes(self) -> dict[str, int]:
        """Number of training images, or pixels, of each class, in the order of the logits."""
        return self.plan.data.class_counts

    @property
    def labelled(self) -> str:
        """What has a class: ``images`` or ``pixels``."""
        return self.plan.data.labels

    @property
    def networks(self) -> str:
        """Teacher and student, as ``resnet50 → resnet18``."""
        steps = self.plan.steps
        student = next(step.network.name for step in steps if step.kind != "teach")
        teacher = next((step for step in steps if step.kind == "teach"), None)
        if teacher is not None:
            return f"{teacher.network.name} → {student}"
        alone = all(self.plan.teacher_of(step) is None for step in steps)
        return student if alone else f"{student}, its own teacher"

    @property
    def budget(self) -> str:
        """The budgets, as ``100k parameters``, with the limits that fractions stand for."""
        budgets = self.plan.recipe.budgets()
        asked = describe_budgets(budgets)
        if all(amount.fraction is None for amount in budgets.values()):
            return asked
        return f"{asked}: {self.plan.limits}"

    @property
    def seconds(self) -> float | None:
        """Seconds that the run is expected to take in all, if that is known beforehand."""
        minutes = self.plan.recipe.minutes
        return None if minutes is None else 60 * minutes

    @cached_property
    def costs(self) -> tuple[float, ...]:
        """Relative cost of each stage, 0 for those that do not train."""
        steps = zip(self.plan.steps, image_costs(self.plan), strict=True)
        return tuple(step.train.length * cost if step.train else 0.0 for step, cost in steps)
