"""Losses as distillation methods: any function of the student's and the teacher's logits."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from compress.data.batches import Batch
from compress.distillation.method import LogitsInputs, Method
from compress.runtime.errors import UserError, describe_type
from compress.training.objective import Forward, Losses


class FunctionLoss:
    """The base plus beta times a function of the logits.

    Args:
        function: takes the logits of student and teacher, (B, classes), and, if it has a third
            parameter, the targets, float32 (B, classes); returns a scalar.
    """

    def __init__(self, function: Callable[..., Tensor], inputs: LogitsInputs) -> None:
        self.function, self.inputs = function, inputs
        self.takes_targets = _count_parameters(function) == 3

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Losses:
        """Return the losses of `student` on `batch`; `progress` runs from 0 to 1 over the stage."""
        logits = student(batch.images)
        targets = (batch.targets,) if self.takes_targets else ()
        loss = self.function(logits, self.inputs.logits(batch), *targets)
        if not isinstance(loss, Tensor) or loss.dim():
            raise UserError("the loss must be a scalar tensor")
        return self.inputs.base(lambda _: logits, batch, progress) | {
            "function": self.inputs.beta * loss
        }


def to_method(found: Any) -> Method:
    """Return a `Method` of an object: itself, or a function of the logits as its own loss.

    The function takes (student, teacher) or (student, teacher, targets); its loss is added to the
    cross-entropy with the labels.

    Raises:
        UserError: the object is neither.

    Example:
        >>> to_method(torch.nn.functional.mse_loss).beta
        1.0
    """
    if isinstance(found, Method):
        return found
    if not callable(found) or isinstance(found, type):
        raise UserError(
            f"method: {describe_type(found)} is neither a name, a Method, nor a function"
            " (student_logits, teacher_logits) → loss"
        )
    if _count_parameters(found) not in (2, 3):
        raise UserError(
            f"method: {getattr(found, '__name__', found)!r} must take student and teacher logits,"
            " and perhaps the targets"
        )
    return Method(beta=1.0, on_logits=partial(FunctionLoss, found))


def _count_parameters(function: Callable[..., Any]) -> int:
    """Return the number of parameters that must be passed by position; 2 if it is not known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    # Built-in functions have no signature.
    except (ValueError, TypeError):
        return 2
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in kinds and each.default is each.empty for each in parameters)
