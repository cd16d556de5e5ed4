"""Importances: torch-pruning's scores for channels, one number for each unit of a channel group.

The names under which recipes and flags know them are registered in
`compress.recipe.registry.IMPORTANCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.pruning.structure import Structure
from compress.recipe.registry import IMPORTANCES
from compress.runtime.device import full_precision
from compress.runtime.errors import UserError, describe_type

# Maps a model to its mean loss on one batch, which the callable holds.
Loss = Callable[[nn.Module], Tensor]


@dataclass(frozen=True)
class Importance:
    """A way to score channels.

    Args:
        make_scorer: returns a torch-pruning importance, a callable from a group to one score for
            each channel.
        gradients: what the scorer reads from `grad` of each parameter: nothing, the gradients of
            the loss summed over batches, or the mean of their squares.
        batch_size: images in a batch of data, if that matters; None accepts any.

    Example:
        >>> L1 = Importance(lambda: tp.importance.GroupMagnitudeImportance(p=1))
    """

    make_scorer: Callable[[], Any]
    gradients: Literal["none", "sum", "mean_square"] = "none"
    batch_size: int | None = None


# Li et al. 2017, arXiv:1608.08710, over the whole group. Norms of weights cannot be compared
# between layers: each group's mean is normalized to one.
MAGNITUDE = Importance(lambda: tp.importance.GroupMagnitudeImportance(p=2))

# Molchanov et al. 2019, arXiv:1906.10771. Scores are changes of one loss, comparable between
# layers: they are summed over the group and not normalized.
TAYLOR = Importance(
    lambda: tp.importance.GroupTaylorImportance(group_reduction="sum", normalizer=None),
    gradients="sum",
)

# LeCun et al. 1989, "Optimal brain damage", with the Fisher information as the Hessian (Liu et al.
# 2021, arXiv:2108.00708). Batches are small because it needs squared gradients of few images.
HESSIAN = Importance(
    lambda: tp.importance.GroupHessianImportance(group_reduction="sum", normalizer=None),
    gradients="mean_square",
    batch_size=8,
)

# Liu et al. 2017, arXiv:1708.06519.
BN_SCALE = Importance(tp.importance.BNScaleImportance)

# Lee et al. 2021, arXiv:2010.07611.
LAMP = Importance(tp.importance.LAMPImportance)

RANDOM = Importance(tp.importance.RandomImportance)


def to_importance(found: Any) -> Importance:
    """Return an `Importance` of an object: itself, or a scorer.

    A scorer is one of torch-pruning's importances or any other callable that takes a group of
    torch-pruning and returns a score for each channel. The gradients that torch-pruning's own
    classes read are computed for them.

    Raises:
        UserError: the object is neither.

    Example:
        >>> to_importance(tp.importance.GroupTaylorImportance()).gradients
        'sum'
    """
    if isinstance(found, Importance):
        return found
    if not callable(found):
        raise UserError(
            f"importance: {describe_type(found)} is neither a name, an Importance, nor a"
            " function (group) → scores"
        )
    kind = found if isinstance(found, type) else type(found)
    if issubclass(kind, tp.importance.GroupHessianImportance):
        return Importance(_maker(found), "mean_square", batch_size=8)
    if issubclass(kind, tp.importance.GroupTaylorImportance):
        return Importance(_maker(found), "sum")
    return Importance(_maker(found))


def _maker(found: Any) -> Callable[[], Any]:
    return found if isinstance(found, type) else lambda: found


def score_units(
    name: str, structure: Structure, losses: Iterable[Loss] | None = None
) -> list[Tensor]:
    """Score every unit of every channel group by the importance `name`.

    Args:
        losses: one callable for each batch of data, for importances that need gradients.

    Returns:
        For each group, scores of shape (units,), float64, all positive.

    Raises:
        UserError: the importance is unknown, needs data and gets none, or finds nothing to score in
            this model; or the model's weights are not finite.
    """
    importance: Importance = IMPORTANCES.load(name)
    model = structure.model
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
        raise UserError("the weights of the model are not finite: channels cannot be scored")
    if importance.gradients != "none":
        accumulate_gradients(model, name, losses, squared=importance.gradients == "mean_square")
    scorer = importance.make_scorer()
    scored = [scorer(group.tp_group) for group in structure.groups]
    if scored and all(scores is None for scores in scored):
        raise UserError(
            f"importance {name!r} finds no layer to score in this network; use 'magnitude'"
        )
    result = []
    for group, scores in zip(structure.groups, scored, strict=True):
        # A group may have no layer of the kind that is scored: bn-scale reads batch norms only.
        if scores is None:
            scores = torch.ones(group.units.numel())
        # The normalizer divides by zero in a group of zero weights.
        scores = scores.detach().double().cpu().nan_to_num(0.0)
        result.append(scores[group.units].sum(dim=1).clamp_min(1e-12))
    return result


def accumulate_gradients(
    model: nn.Module, name: str, losses: Iterable[Loss] | None, squared: bool = False
) -> None:
    """Set `grad` of each parameter to the sum of its gradients over `losses`.

    If `squared`, set it to the mean of their squares instead. Parameters that the losses do not
    depend on get zeros.

    Args:
        name: the importance that needs the gradients, for messages.

    Raises:
        UserError: `losses` is None, or the gradients are all zero or not finite.
    """
    if losses is None:
        raise UserError(f"importance {name!r} needs data; use 'magnitude', which needs none")
    parameters = list(model.parameters())
    model.zero_grad(set_to_none=True)
    means = [torch.zeros_like(p) for p in parameters]
    for batches, loss in enumerate(losses, start=1):
        with full_precision():
            torch.autograd.backward(loss(model))
        if squared:
            for mean, parameter in zip(means, parameters, strict=True):
                if parameter.grad is not None:
                    mean += (parameter.grad.square() - mean) / batches
            model.zero_grad(set_to_none=False)
    for mean, parameter in zip(means, parameters, strict=True):
        if squared or parameter.grad is None:
            parameter.grad = mean
    found = [p.grad for p in parameters if p.grad is not None]
    finite = all(bool(torch.isfinite(grad).all()) for grad in found)
    if not finite or not any(bool(grad.any()) for grad in found):
        raise UserError(
            f"importance {name!r} got no usable gradients: the loss is not finite, or there is no"
            " data"
        )
