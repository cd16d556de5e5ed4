"""Plans: a recipe resolved and validated for this machine and data, before training starts.

Image files are checked, and no image is loaded to make a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from compress.data.balance import draw_chances
from compress.data.batches import scored_at_once
from compress.data.dataset import Dataset
from compress.data.open_dataset import open_dataset
from compress.deployment.formats import get_format
from compress.distillation.objectives import uses_teacher
from compress.models import checkpoint
from compress.models.channels import widen_input
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.models.memory_format import to_channels_last
from compress.models.reuse import reusing_networks
from compress.pipeline.checks import (
    check_images,
    check_methods,
    check_networks,
    check_threads,
    network_channels,
    note_missing_teachers,
    note_new_heads,
    note_unused_teacher,
    student_model,
)
from compress.pipeline.fit_to_data import fit_to_data
from compress.pipeline.int8_size import (
    FLOAT_BYTES,
    FREE,
    free_tensor_bytes,
    int8_checkpoint,
    resolve_int8_limits,
)
from compress.pipeline.pretrained import (
    load_published_teacher,
    load_trained,
    merge_trained,
    trained_steps,
)
from compress.pipeline.provenance import largest_checkpoint
from compress.pipeline.reach import check_reachable, check_something_to_prune
from compress.pipeline.rehearsal import rehearse_cut, rehearse_quantization, rehearse_training
from compress.pipeline.stage_steps import drop_rounds, set_targets, stage_steps
from compress.pipeline.step import Step, number_steps
from compress.pruning.clock import Clock
from compress.pruning.file_size import resolve_file_limits
from compress.pruning.latency import MOST
from compress.pruning.pruner import start_clock
from compress.recipe.budget import Cost, Limits
from compress.recipe.overrides import ROLES
from compress.recipe.schema import Recipe
from compress.recipe.stages import Train
from compress.runtime import distributed
from compress.runtime.device import pick_device
from compress.runtime.errors import UserError
from compress.training.task import Task, make_task

# Bytes of a file kept free: a run may end on another machine, whose name and versions are longer.
SPARE_BYTES = 256


@dataclass(frozen=True)
class Plan:
    """Everything that is settled before a run starts.

    Args:
        recipe: with the specifications of trained networks in it, and with lengths and a batch
            size that suit the data.
        data: its pools are opened when they are first used.
        limits: limits on the final network.
        max_file_bytes: size of the final weights file, if it is limited.
        steps: the stages, in order.
        student_cost: cost of the student before its first cut, with its time if that is limited.
        notes: lines for the user, about what depends on the data.
        clock: measures the time of one image, if that is limited.
    """

    recipe: Recipe
    data: Dataset
    device: torch.device
    limits: Limits
    max_file_bytes: int | None
    steps: tuple[Step, ...]
    student_cost: Cost
    notes: tuple[str, ...] = ()
    clock: Clock | None = None

    @property
    def batch_size(self) -> int:
        """Number of images in a batch."""
        assert self.recipe.batch_size != "auto"
        return self.recipe.batch_size

    @cached_property
    def task(self) -> Task:
        """The task: what targets, losses and metrics are."""
        return make_task(self.data, self.recipe)

    @property
    def uneven(self) -> bool:
        """True if classes differ so much in size that balanced accuracy says more than top-1."""
        return self.data.uneven

    @cached_property
    def chances(self) -> Tensor | None:
        """Chance of each training image, float64 (N,), if uneven classes are drawn evenly."""
        if self.recipe.balance != "sampler":
            return None
        return draw_chances(self.data.train_images.targets, len(self.data.classes))

    @property
    def image_size(self) -> int:
        """Side of the images that the final network takes, in pixels.

        Multiply-adds are counted at this size.
        """
        return self.steps[-1].image_size

    def teacher_of(self, step: Step) -> Step | None:
        """Return the step whose model `step` distills from, if it distills."""
        if step.train is None or step.teacher is None or not uses_teacher(step.train):
            return None
        return self.steps[step.teacher]

    def scored_at_once(self, step: Step) -> int:
        """Return how many images the model of `step` scores at once."""
        own = self.batch_size // distributed.world_size()
        return scored_at_once(max(step.image_size, self.data.image_size), own)

    def place(self, model: nn.Module, step: Step) -> nn.Module:
        """Return the model of `step` on the plan's device, ready for the images of its batches."""
        if step.channels < self.data.channels:
            widen_input(model)
        return to_channels_last(model).to(self.device)

    @property
    def original(self) -> Step:
        """The step that leaves the student before its first cut."""
        first = next((each.index for each in self.steps if each.prune), 0)
        return self.steps[first - 1]

    def is_last_cut(self, step: Step) -> bool:
        """Return True if `step` is the last that prunes."""
        return step in [each for each in self.steps if each.prune][-1:]

    def free_bytes(self, step: Step) -> Callable[[nn.Module], int] | None:
        """Return a function that computes the bytes left in the final file, for the last cut.

        The function takes the model that the file is to hold. The result is None if the file's size
        is not limited, and for all other steps.
        """
        if self.max_file_bytes is None or not self.is_last_cut(step):
            return None
        available = self.max_file_bytes - SPARE_BYTES

        if self.steps[-1].quantize:

            def free_int8(model: nn.Module) -> int:
                final = int8_checkpoint(self.recipe, self.steps, self.data, model)
                return free_tensor_bytes(final, available)

            return free_int8

        def free(model: nn.Module) -> int:
            final = largest_checkpoint(self.recipe, self.steps, self.data, model)
            return available - checkpoint.measure_file_bytes(final)

        return free

    @property
    def enough_bytes(self) -> int | None:
        """Bytes of tensors that a cut may leave free in an int8 file; None without one."""
        if self.max_file_bytes is None or not self.steps[-1].quantize:
            return None
        return round(FLOAT_BYTES * FREE * self.max_file_bytes)


@reusing_networks()
def make_plan(
    recipe: Recipe, device: str = "auto", log: Callable[[str], None] = lambda line: None
) -> Plan:
    """Resolve and validate a recipe before training starts.

    Args:
        log: called with a line before something that takes a while.

    Raises:
        UserError: the recipe cannot be carried out on this machine or data.
    """
    picked = pick_device(device)
    check_threads(recipe)
    check_networks(recipe)
    trained = load_trained(recipe)
    data = _open_data(recipe, trained, log).to(picked)
    trained = load_published_teacher(recipe, data) | trained
    recipe, data = merge_trained(recipe, data, trained)
    recipe, notes = fit_to_data(recipe, data, trained)
    task = make_task(data, recipe)
    task.check_recipe(recipe)
    # The stages are settled only now.
    data = data.for_crops(_least_area(recipe))
    _check_world_size(recipe, data)
    channels = {
        role: network_channels(getattr(recipe, role), trained.get(role), data) for role in ROLES
    }
    steps = [*trained_steps(recipe, trained), *stage_steps(recipe, data, trained, channels)]
    data = data.for_channels({step.channels for step in steps})
    check_images(recipe, steps, data, task)
    size = steps[-1].input_size
    student = student_model(recipe, trained.get("student"), len(data.classes), size)
    check_methods(recipe, number_steps(steps), data, task)
    time = recipe.budgets().get("latency")
    if time is not None:
        log(f"timing {recipe.student.name} in {recipe.runtime}, once on this machine")
    clock = start_clock(student, size, time, recipe.runtime, recipe.threads)
    cost = measure_cost(student, size)
    if clock is not None:
        cost = replace(cost, latency=round(clock.full))
    limits, max_file_bytes = _resolve_budgets(recipe, number_steps(steps), data, student, cost)
    steps = number_steps(set_targets(drop_rounds(steps, limits, cost), limits, cost))
    notes = (*notes, *note_new_heads(recipe, steps, data))
    notes = (*notes, *note_missing_teachers(steps), *note_unused_teacher(steps))
    check_something_to_prune(recipe, steps, limits, cost)
    _rehearse(recipe, steps, data, student, clock)
    return Plan(recipe, data, picked, limits, max_file_bytes, tuple(steps), cost, notes, clock)


def _open_data(
    recipe: Recipe, trained: Mapping[str, Checkpoint], log: Callable[[str], None]
) -> Dataset:
    """Open the data of a recipe.

    Its classes have the order of those of a trained network, and its images the size of those that
    a trained student takes, unless the recipe names one.
    """
    first, student = next(iter(trained.values()), None), trained.get("student")
    own_size = None if student is None else student.input_size[-1]
    return open_dataset(
        recipe.data,
        classes=() if first is None else first.classes,
        image_size=recipe.image_size or own_size,
        max_images=recipe.max_images,
        data_fraction=recipe.data_fraction,
        seed=recipe.seed,
        crop_ratio=recipe.crop_ratio,
        background=recipe.background,
        verify=True,
        skip_broken=recipe.skip_broken,
        log=log,
    )


def _rehearse(
    recipe: Recipe, steps: Sequence[Step], data: Dataset, student: nn.Module, clock: Clock | None
) -> None:
    """Train, cut and quantize in small, to find what fails before time is spent."""
    task = make_task(data, recipe)
    rehearse_training(steps, data, task)
    least = 0 if clock is None else round(clock.least / MOST)
    cut = check_reachable(recipe, steps, student, torch.zeros(1, *steps[-1].input_size), least)
    if cut is not None:
        rehearse_cut(steps, data, student, cut, task)
    rehearse_quantization(recipe, steps, data, student if cut is None else cut)


def _least_area(recipe: Recipe) -> float:
    """Return the fraction of an image's area that the smallest random crop keeps."""
    return min(
        (stage.crop[0] for stage in recipe.stages if isinstance(stage, Train) and stage.crop),
        default=1.0,
    )


def _resolve_budgets(
    recipe: Recipe, steps: Sequence[Step], data: Dataset, student: nn.Module, cost: Cost
) -> tuple[Limits, int | None]:
    """Resolve the budgets; that in bytes is one on the file that the last stage writes."""
    budgets = recipe.budgets()
    if steps[-1].quantize:
        get_format("onnx")
        unpruned = int8_checkpoint(recipe, steps, data, student)
        return resolve_int8_limits(budgets, cost, unpruned, SPARE_BYTES)
    return resolve_file_limits(
        budgets, cost, lambda: largest_checkpoint(recipe, steps, data, student), SPARE_BYTES
    )


def _check_world_size(recipe: Recipe, data: Dataset) -> None:
    assert recipe.batch_size != "auto"
    batch_size = min(recipe.batch_size, data.train_count)
    if distributed.world_size() > batch_size:
        raise UserError(
            f"{distributed.world_size()} processes share a batch of {batch_size} images:"
            " start fewer, or raise batch_size"
        )
