"""Distillation methods by name: building and checking the objective of a stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import nn

from compress.data.batches import Batch
from compress.distillation.feature_taps import pair_taps
from compress.distillation.features import Tapped
from compress.distillation.kd import KD
from compress.distillation.labels import Labels
from compress.distillation.logits_cache import fits_cache
from compress.distillation.method import FeatureInputs, Logits, LogitsInputs, Method, Teacher
from compress.models.channels import input_channels
from compress.recipe.registry import METHODS
from compress.recipe.stages import Train
from compress.runtime.errors import UserError, one_line
from compress.training.forward import make_forward, make_teacher
from compress.training.objective import Objective, total_loss
from compress.training.task import Task


def load_method(stage: Train) -> Method:
    """Return the method that a stage names."""
    method: Method = METHODS.load(stage.method)
    return method


def build_objective(
    stage: Train,
    task: Task,
    teacher: Teacher,
    student: tuple[nn.Module, int],
    open_logits: Callable[[], Logits],
    examples: Iterator[Batch],
) -> Objective:
    """Build the objective of a stage that has a teacher.

    Args:
        student: the network, and the side of the images that it takes, in pixels.
        open_logits: opens the cache of the teacher's logits; called only if they are needed.
        examples: yields a batch to measure feature maps on; read only if they are needed.
    """
    method, alpha = load_method(stage), _alpha(stage)
    beta = method.beta if stage.beta is None else stage.beta
    # The base and the method share one cache.
    open_logits = cache(open_logits)
    base: Objective = Labels(task, stage.label_smoothing)
    if alpha:
        smoothing = stage.label_smoothing
        base = KD(task, open_logits(), stage.temperature, alpha, stage.fade, smoothing)
    network, size = student
    if method.on_logits is not None and beta is not None:
        inputs = LogitsInputs(task, open_logits(), base, beta, stage.temperature)
        return _place_beside(network, method.on_logits(inputs))
    if method.on_features is not None and beta is not None:
        images = next(examples).images
        theirs, ours = pair_taps(stage.taps, (teacher.model, teacher.image_size), student)
        forward = make_teacher(teacher.model, teacher.image_size)
        tapped_teacher = Tapped(teacher.model, forward, theirs, images)
        tapped_student = Tapped(network, make_forward(network, size), ours, images)
        features = FeatureInputs(tapped_teacher, tapped_student, base, beta)
        return _place_beside(network, method.on_features(features))
    return base


def uses_teacher(stage: Train) -> bool:
    """Return True if the stage's objective would use a teacher."""
    return bool(_alpha(stage)) or load_method(stage).beta is not None


def uses_logits(stage: Train) -> bool:
    """Return True if the stage needs its teacher's logits."""
    return bool(_alpha(stage)) or load_method(stage).on_logits is not None


def needs_features(stage: Train) -> bool:
    """Return True if the stage compares feature maps."""
    return load_method(stage).on_features is not None


def epochs_until_cached(stage: Train, samples: int, *shape: int) -> float:
    """Return the number of epochs after which the teacher need not run any more.

    It is infinite if no view is repeated, if there is no room for the logits of `samples` images,
    each of `shape`, or if feature maps are compared too.
    """
    cacheable = stage.views and uses_logits(stage) and not needs_features(stage)
    return stage.views if cacheable and fits_cache(stage.views, samples, *shape) else math.inf


def check_method(stage: Train, has_teacher: bool) -> None:
    """Check that the keys of a stage suit its method.

    Raises:
        UserError: the method has no use for a key, or lacks a teacher.
    """
    method, named = load_method(stage), f"method {stage.method!r}"
    if stage.method == "labels" and stage.alpha:
        raise UserError(f"{named} has no teacher: remove alpha, or use 'kd'")
    if stage.beta is not None and method.beta is None:
        raise UserError(f"{named} has no loss of its own: remove beta")
    if stage.taps and method.on_features is None:
        raise UserError(f"{named} compares no feature maps: remove taps")
    if stage.freeze and method.on_features is not None:
        raise UserError(f"{named} trains the backbone: remove freeze")
    stops = method.on_features is None and uses_teacher(stage) and has_teacher
    if stage.stop_at_teacher and not stops:
        raise UserError(
            f"{named} uses no logits of a teacher here:"
            " remove stop_at_teacher, or use 'kd' and set alpha"
        )
    if stage.compile is True and method.on_features is not None:
        raise UserError(f"{named} hooks into the network as it runs: remove compile")
    if not has_teacher and method.beta is not None:
        raise UserError(f"{named} needs a teacher: add a 'teach' stage, or set teacher.weights")


def check_logits(stage: Train, task: Task) -> None:
    """Compute the objective of a method on logits once, for a batch of two random images.

    Raises:
        UserError: the objective cannot be built or computed.
    """
    if load_method(stage).on_logits is None:
        return
    with torch.random.fork_rng(devices=[]):
        shape = task.output_shape(2, 2)
        images, logits = torch.randn(2, 3, 2, 2), torch.randn(shape)
    targets = task.encode_targets(task.example_labels(2, 2))
    batch = Batch(images, targets, torch.arange(2), 0)
    values = nn.LazyLinear(math.prod(shape[1:]))
    student = nn.Sequential(nn.Flatten(), values, nn.Unflatten(1, shape[1:]))
    try:
        student(images)
        objective = build_objective(
            stage, task, Teacher(student, 2), (student, 2), lambda: lambda _: logits, iter([batch])
        )
        total_loss(objective(student, batch, 0.5)).backward()  # type: ignore[no-untyped-call]
    # A plug-in, or a function of the user's, may fail in any way.
    except Exception as error:
        raise UserError(f"method {stage.method!r} fails: {one_line(error)}") from error


def check_taps(
    stage: Train,
    task: Task,
    teacher: tuple[nn.Module, int],
    student: tuple[nn.Module, int],
) -> None:
    """Check on one image that two networks can be tapped as the stage says.

    Args:
        teacher, student: each a network and the side of the images that it takes, in pixels.

    Raises:
        UserError: a layer does not exist, or returns nothing that the method can use.
    """
    image = torch.zeros(1, input_channels(*student), student[1], student[1])
    batch = Batch(image, torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), 0)
    examples = iter([batch])
    build_objective(
        stage, task, Teacher(*teacher), student, lambda: lambda batch: batch.targets, examples
    )


def _place_beside(network: nn.Module, objective: Objective) -> Objective:
    """Return the objective, with its own parameters, if it has some, on the network's device."""
    if not isinstance(objective, nn.Module):
        return objective
    return objective.to(next(network.parameters()).device)


def _alpha(stage: Train) -> float:
    return load_method(stage).alpha if stage.alpha is None else stage.alpha
