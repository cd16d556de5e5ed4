"""The methods of distillation by name: what a recipe's `method` may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.attention import Attention
from compress.distillation.dkd import DKD
from compress.distillation.feature_taps import pair_up
from compress.distillation.features import Tapped
from compress.distillation.fitnets import FitNets
from compress.distillation.fsp import FSP
from compress.distillation.kd import KD
from compress.distillation.labels import Labels
from compress.distillation.logits_cache import room_for
from compress.distillation.overhaul import Overhaul
from compress.distillation.simultaneous import Simultaneous
from compress.distillation.stagewise import Stagewise
from compress.recipe.schema import Train
from compress.runtime.errors import UserError
from compress.training.trainer import Objective, forward, teach

Answers = Callable[[Batch], Tensor]  # a batch to the teacher's logits (B, classes)


class Sized(NamedTuple):
    """A network, and the side of the images it takes, in pixels."""

    network: nn.Module
    size: int


@dataclass(frozen=True)
class Method:
    """How the objective of a method is made. All have a base, which is the labels and, by alpha, Hinton's KD.

    Args:
        alpha, beta: what a recipe gets that does not name them; beta is None where there is nothing to weigh.
        of_answers: for a method that needs the teacher's answers alone: (answers, base, beta, temperature).
        of_maps: for a method that looks at feature maps: (teacher, student, base, beta).
    """

    alpha: float = 0.0
    beta: float | None = None
    of_answers: Callable[[Answers, Objective, float, float], Objective] | None = None
    of_maps: Callable[[Tapped, Tapped, Objective, float], Objective] | None = None


METHODS: dict[str, Method] = {
    "labels": Method(),
    "kd": Method(alpha=0.5),
    "dkd": Method(beta=8.0, of_answers=DKD),
    "simultaneous": Method(beta=1.0, of_maps=Simultaneous),
    "stagewise": Method(beta=1.0, of_maps=Stagewise),
    "fitnets": Method(alpha=0.5, beta=1.0, of_maps=FitNets),
    "attention": Method(beta=1000.0, of_maps=Attention),
    "fsp": Method(beta=1.0, of_maps=FSP),
    "overhaul": Method(beta=1e-3, of_maps=Overhaul),
}


def objective(
    stage: Train,
    teacher: Sized,
    student: Sized,
    answers: Callable[[], Answers],
    example: Iterator[Batch],
) -> Objective:
    """What `stage` trains `student` for.

    Args:
        answers: gives the teacher's answers, kept; called if the method listens to them.
        example: a batch to measure feature maps on, taken if the method looks at any.
    """
    method, alpha = METHODS[stage.method], _alpha(stage)
    answers = cache(answers)  # of the base and of the method are the same
    beta = method.beta if stage.beta is None else stage.beta
    base: Objective = Labels(stage.label_smoothing)
    if alpha:
        base = KD(answers(), stage.temperature, alpha, stage.fade, stage.label_smoothing)
    if method.of_answers is not None and beta is not None:
        return method.of_answers(answers(), base, beta, stage.temperature)
    if method.of_maps is not None and beta is not None:
        images = next(example).images
        theirs, ours = pair_up(
            stage.taps, teacher.network, student.network, teacher.size, student.size
        )
        guide = Tapped(teacher.network, teach(*teacher), theirs, images)
        learner = Tapped(student.network, forward(*student), ours, images)
        made = method.of_maps(guide, learner, base, beta)
        return made.to(images.device) if isinstance(made, nn.Module) else made
    return base


def listens(stage: Train) -> bool:
    """Whether the guide of `stage` has a say in it, if there is one."""
    return bool(_alpha(stage)) or METHODS[stage.method].beta is not None


def asks(stage: Train) -> bool:
    """Whether `stage` asks its guide, if it has one, for answers."""
    return bool(_alpha(stage)) or METHODS[stage.method].of_answers is not None


def keeps(stage: Train) -> bool:
    """Whether answers are all that it asks for: they are kept, and feature maps are not."""
    return asks(stage) and METHODS[stage.method].of_maps is None


def asked_epochs(stage: Train, samples: int, classes: int) -> float:
    """After how many epochs on `samples` images all answers that `stage` asks for are kept: infinite if they never are,
    because no view comes again, there is no room, or it asks for more than answers."""
    lasting = stage.views and keeps(stage) and room_for(stage.views, samples, classes)
    return stage.views if lasting else math.inf


def _alpha(stage: Train) -> float:
    return METHODS[stage.method].alpha if stage.alpha is None else stage.alpha


def check(stage: Train, taught: bool) -> None:
    """See whether what `stage` says of its method makes sense; `taught` says whether it has a guide.

    Raises:
        UserError: the method has no use for something that is said.
    """
    method, named = METHODS[stage.method], f"method {stage.method!r}"
    if stage.method == "labels" and stage.alpha:
        raise UserError(f"{named} does not listen to a teacher: leave alpha out, or choose 'kd'")
    if stage.beta is not None and method.beta is None:
        raise UserError(f"{named} has no loss of its own to weigh: leave beta out")
    if stage.taps and method.of_maps is None:
        raise UserError(f"{named} looks at no layers: leave taps out")
    if stage.freeze and method.of_maps is not None:
        raise UserError(f"{named} teaches the backbone: leave freeze out")
    if stage.stop_at_teacher and (method.of_maps is not None or not listens(stage) or not taught):
        raise UserError(
            f"{named} has no answers to stop_at_teacher here: leave stop_at_teacher out, or choose 'kd' and give alpha"
        )
    if stage.compile is True and method.of_maps is not None:
        raise UserError(f"{named} looks into the network as it runs: leave compile out")
    if not taught and method.beta is not None:
        raise UserError(
            f"{named} needs a teacher: begin with a 'teach' stage, or give one's weights"
        )


def check_taps(stage: Train, teacher: Sized, student: Sized) -> None:
    """See, with one image, whether such networks can be tapped as `stage` says.

    Raises:
        UserError: a layer is not there, or gives nothing that the method can use.
    """
    image = torch.zeros(1, 3, student.size, student.size)
    batch = Batch(image, torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), 0)
    objective(stage, teacher, student, lambda: lambda asked: asked.targets, iter([batch]))
