"""Distillation methods: functions that build their objectives, and their defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.features import Tapped
from compress.runtime.errors import UserError
from compress.training.objective import Objective
from compress.training.task import Task

# Maps a batch to the teacher's logits, (B, classes).
Logits = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Teacher:
    """The network that a stage distills from.

    Args:
        image_size: side of the images that it was trained on, in pixels.
        val_accuracy: accuracy on the validation split, 0 to 1; no student exceeds the default.
    """

    model: nn.Module
    image_size: int
    val_accuracy: float = 1.0


@dataclass(frozen=True)
class LogitsInputs:
    """Inputs of an objective on the teacher's logits.

    Args:
        task: defines the targets and the loss on labels.
        logits: the teacher's logits.
        base: the objective on labels and, by alpha, Hinton's KD.
        beta: weight of the method's own loss.
    """

    task: Task
    logits: Logits
    base: Objective
    beta: float
    temperature: float


@dataclass(frozen=True)
class FeatureInputs:
    """Inputs of an objective on feature maps.

    Args:
        teacher, student: the networks, and the layers that are compared.
        base: the objective on labels and, by alpha, Hinton's KD.
        beta: weight of the method's own loss.
    """

    teacher: Tapped
    student: Tapped
    base: Objective
    beta: float


@dataclass(frozen=True)
class Method:
    """A distillation method. All build on a base: the loss on labels and, by alpha, Hinton's KD.

    Args:
        alpha: default weight of KD in the base.
        beta: default weight of the method's own loss; None if it has no loss of its own.
        on_logits: builds the objective of a method that needs the teacher's logits alone.
        on_features: builds the objective of a method that compares feature maps.

    Raises:
        UserError: there is a beta without one of the two, one without a beta, or both.
    """

    alpha: float = 0.0
    beta: float | None = None
    on_logits: Callable[[LogitsInputs], Objective] | None = None
    on_features: Callable[[FeatureInputs], Objective] | None = None

    def __post_init__(self) -> None:
        builders = (self.on_logits is not None) + (self.on_features is not None)
        if builders > 1 or builders != (self.beta is not None):
            raise UserError(
                "a distillation method with a loss of its own needs a beta, and either on_logits or"
                " on_features"
            )
