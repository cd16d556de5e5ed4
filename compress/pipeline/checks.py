"""Input checks: networks, image sizes and distillation methods, before training starts."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import nn

from compress.data.dataset import Dataset
from compress.distillation.objectives import (
    check_logits,
    check_method,
    check_taps,
    needs_features,
    uses_teacher,
)
from compress.models.build import (
    build,
    build_untrained,
    describe_new_head,
    import_builder,
    skeleton,
)
from compress.models.channels import first_convolution, input_channels, widen_input
from compress.models.checkpoint import Checkpoint
from compress.models.outputs import refuse_probabilities, suggest_flatten
from compress.pipeline.stage_steps import scale_image_size
from compress.pipeline.step import Step
from compress.pruning import unstructured
from compress.recipe.model_spec import ModelSpec
from compress.recipe.overrides import ROLES
from compress.recipe.registry import IMPORTANCES
from compress.recipe.schema import Recipe
from compress.recipe.stages import Prune
from compress.runtime.arguments import require_threads
from compress.runtime.errors import UserError, one_line
from compress.training.task import Task

# Sides of the images that networks are made for, in pixels.
COMMON_SIZES = (32, 64, 96, 128, 224)


def check_networks(recipe: Recipe) -> None:
    """Check that both networks can be built, and that importances suit the modes of pruning.

    Raises:
        UserError: a name, a stem or a head is wrong, or weights cannot be downloaded.
    """
    for spec in (recipe.teacher, recipe.student):
        if spec.source == "custom":
            import_builder(spec.name)
        elif spec.pretrained and not spec.weights:
            # The download succeeds, or is refused, now.
            build(spec, 10)
        else:
            skeleton(spec, 10)
    for stage in recipe.stages:
        if not isinstance(stage, Prune):
            continue
        IMPORTANCES.load(stage.importance)
        if stage.mode == "weights":
            unstructured.check_weight_importance(stage.importance)


def check_threads(recipe: Recipe) -> None:
    """Check that this machine has the cores to time networks, if the recipe has a budget on time.

    Raises:
        UserError: it has fewer than the recipe's `threads`.
    """
    if "latency" in recipe.budgets():
        require_threads(recipe.threads)


def check_images(recipe: Recipe, steps: Sequence[Step], data: Dataset, task: Task) -> None:
    """Run each network on one image of every size that its steps use.

    Raises:
        UserError: a network does not take such images, or its output has another shape than the
            task's.
    """
    for spec, own in _by_network(recipe, steps):
        _check_image_sizes(spec, own, task)
        _check_single_images(spec, own, recipe, data)


def check_methods(recipe: Recipe, steps: Sequence[Step], data: Dataset, task: Task) -> None:
    """Check that the networks can be distilled as the stages say.

    Raises:
        UserError: a method has no use for a key, or a layer to tap does not exist.
    """
    students = [step for step in steps if step.train and step.kind != "teach"]
    for step in students:
        assert step.train is not None
        check_method(step.train, has_teacher=step.teacher is not None)
        if step.teacher is not None:
            check_logits(step.train, task)
    tapping = [step for step in students if step.train and needs_features(step.train)]
    if not tapping:
        return
    teacher, student = (
        _take_color(build_untrained(spec, len(data.classes)), own)
        for spec, own in _by_network(recipe, steps)
    )
    for step in tapping:
        assert step.train is not None and step.teacher is not None
        source = steps[step.teacher]
        # A teacher is frozen: a student that distills from itself is copied.
        network = teacher if source.kind == "teach" else copy.deepcopy(student)
        check_taps(step.train, task, (network, source.image_size), (student, step.image_size))


def note_new_heads(recipe: Recipe, steps: Sequence[Step], data: Dataset) -> list[str]:
    """Return a line on each custom network whose last layer is replaced by a new one."""
    notes = []
    for role, (spec, own) in zip(ROLES, _by_network(recipe, steps), strict=True):
        if own and spec.source == "custom" and all(step.trained is None for step in own):
            line = describe_new_head(spec, len(data.classes), own[0].input_size)
            notes += [f"{role}: {line}"] if line else []
    return notes


def note_unused_teacher(steps: Sequence[Step]) -> list[str]:
    """Return a line on a teacher that is trained, if no stage distills from it."""
    used = {step.teacher for step in steps if step.train and uses_teacher(step.train)}
    return [
        f"teacher: no stage distills from {step.network.name}; leave it out, or give the stages"
        " a method that has a teacher"
        for index, step in enumerate(steps)
        if step.kind == "teach" and step.trained is not None and index not in used
    ]


def note_missing_teachers(steps: Sequence[Step]) -> list[str]:
    """Return a line on each stage that is to distill and has no teacher; steps are numbered."""
    return [
        f"{step.name}: method {step.train.method!r} has no teacher and trains on the labels alone;"
        " add a 'teach' stage, or pass a trained teacher"
        for step in steps
        if step.kind == "distill"
        and step.train
        and step.teacher is None
        and uses_teacher(step.train)
    ]


def network_channels(spec: ModelSpec, trained: Checkpoint | None, data: Dataset) -> int:
    """Return the number of channels of the images that a network takes: 3, or 1 for grey ones.

    Raises:
        UserError: it takes another number.
    """
    if trained is not None:
        return trained.input_size[0]
    if spec.source != "custom":
        return 3
    model = build_untrained(spec, len(data.classes))
    try:
        return input_channels(model, data.image_size)
    except UserError as error:
        raise UserError(f"network {spec.name!r}: {error}") from error


def _take_color(model: nn.Module, steps: Sequence[Step]) -> nn.Module:
    """Let the network of `steps` take three channels, as the images that it is checked on."""
    grey = any(step.channels == 1 for step in steps)
    # A named network is built with three channels, even if a trained one was folded to one.
    _, conv = first_convolution(model)
    return widen_input(model) if grey and (conv is None or conv.in_channels == 1) else model


def _by_network(recipe: Recipe, steps: Sequence[Step]) -> Iterable[tuple[ModelSpec, list[Step]]]:
    yield recipe.teacher, [step for step in steps if step.kind == "teach"]
    yield recipe.student, [step for step in steps if step.kind != "teach"]


def _check_image_sizes(spec: ModelSpec, steps: Sequence[Step], task: Task) -> None:
    classes, sizes = task.classes, {step.image_size for step in steps}
    # Computing shapes alone saves a second; only some networks need real numbers.
    with suppress(Exception):
        shapes = _take_color(skeleton(spec, classes), steps)
        if spec.source != "custom" and all(
            _run_once(shapes, size) == task.output_shape(1, size) for size in sizes
        ):
            return
    model = _take_color(build_untrained(spec, classes), steps)
    for size in sorted(sizes):
        try:
            answer = _run_once(model, size)
        except UserError as error:
            raise UserError(f"network {spec.name!r}: {error}") from error
        # A network may raise anything.
        except Exception as error:
            remedy = _suggest_image_size(model, steps) or one_line(error)
            raise UserError(
                f"network {spec.name!r} does not take images of {size}×{size} pixels: {remedy}"
            ) from error
        expected = task.output_shape(1, size)
        if answer != expected:
            raise UserError(
                f"network {spec.name!r} returns {answer} for one image; expected logits {expected}"
                f"{suggest_flatten(answer)}"
            )
        if spec.source == "custom":
            refuse_probabilities(model, (3, size, size), f"network {spec.name!r}")


def _check_single_images(
    spec: ModelSpec, steps: Sequence[Step], recipe: Recipe, data: Dataset
) -> None:
    """Check that the network can be trained on one image, where batches have only one.

    A batch norm cannot be trained on a single 1×1 map.
    """
    for step in steps:
        assert recipe.batch_size != "auto"
        samples = step.prune.samples if step.prune else recipe.batch_size
        if step.stage is None or min(samples, recipe.batch_size) > 1:
            continue
        try:
            model = build_untrained(spec, len(data.classes))
            _run_once(_take_color(model, [step]), step.image_size, training=True)
        # A network may raise anything.
        except Exception as error:
            key = "batch_size" if recipe.batch_size == 1 else "samples"
            raise UserError(
                f"{step.kind}: network {spec.name!r} cannot be trained on single images"
                f" ({one_line(error)}): raise `{key}`"
            ) from error


def _suggest_image_size(model: nn.Module, steps: Sequence[Step]) -> str:
    """Return a remedy for images that the model does not take, or an empty string."""

    def takes(size: int) -> bool:
        with suppress(Exception):
            return bool(_run_once(model, size))
        return False

    for size in COMMON_SIZES:
        # A trained network keeps its size.
        scaled = (
            scale_image_size(step.stage, size) if step.stage else step.image_size for step in steps
        )
        if all(map(takes, scaled)):
            return f"use larger ones, --image-size {size} or the recipe's key `image_size = {size}`"
    if only := next(filter(takes, COMMON_SIZES), None):
        return (
            f"it takes {only}×{only} pixels;"
            f" set `image_size = {only}` and `scale = 1` in its stages"
        )
    return ""


@torch.inference_mode()
def _run_once(model: nn.Module, size: int, training: bool = False) -> tuple[int, ...] | str:
    """Return the shape of the model's output for one image of `size` pixels.

    If the output is not a tensor, return the name of its type.
    """
    image = torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
    answer = model.train(training)(image)
    return tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__


def student_model(
    recipe: Recipe,
    trained: Checkpoint | None,
    classes: int,
    input_size: tuple[int, int, int],
) -> nn.Module:
    """Return the student to measure: the trained one, or one with random weights."""
    if trained is not None:
        return trained.model
    return build_untrained(recipe.student, classes, input_size)
