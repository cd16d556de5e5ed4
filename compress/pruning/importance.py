"""Which channels matter: torch-pruning's importances by name, asked for one score a unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from compress.pruning.structure import Structure
from compress.runtime.device import full_precision
from compress.runtime.errors import UserError, did_you_mean

Loss = Callable[[nn.Module], Tensor]  # one batch, already chosen: the model's mean loss on it


@dataclass(frozen=True)
class Importance:
    """A way to score channels.

    Args:
        scorer: torch-pruning's.
        needs: what it needs of the gradients of the loss on data: nothing, their sum over all batches, or the mean of
            their squares.
        batch: images in a batch, where it matters: squares of gradients are to be those of a few images.
    """

    scorer: Callable[[], Any]
    needs: Literal["nothing", "gradients", "squares"] = "nothing"
    batch: int | None = None


# Sums over a coupling, without a normalizer, keep Taylor scores what they are: changes of one and the same loss,
# comparable between layers. Norms of weights are not, so there each coupling's mean is made one.
IMPORTANCES: dict[str, Importance] = {
    # Li et al. 2017, arXiv:1608.08710, over the whole coupling
    "magnitude": Importance(lambda: tp.importance.GroupMagnitudeImportance(p=2)),
    # Molchanov et al. 2019, arXiv:1906.10771
    "taylor": Importance(
        lambda: tp.importance.GroupTaylorImportance(group_reduction="sum", normalizer=None),
        needs="gradients",
    ),
    # LeCun et al. 1989, "Optimal brain damage", with the Fisher information for the Hessian (Liu et al. 2021,
    # arXiv:2108.00708)
    "hessian": Importance(
        lambda: tp.importance.GroupHessianImportance(group_reduction="sum", normalizer=None),
        needs="squares",
        batch=8,
    ),
    # Liu et al. 2017, arXiv:1708.06519
    "bn-scale": Importance(tp.importance.BNScaleImportance),
    # Lee et al. 2021, arXiv:2010.07611
    "lamp": Importance(tp.importance.LAMPImportance),
    "random": Importance(tp.importance.RandomImportance),
}


def importance(name: str) -> Importance:
    """The importance called `name`, or a UserError that names the nearest."""
    if name not in IMPORTANCES:
        known = ", ".join(IMPORTANCES)
        raise UserError(
            f"unknown importance {name!r}{did_you_mean(name, IMPORTANCES)}; known: {known}"
        )
    return IMPORTANCES[name]


def worths(
    name: str, model: nn.Module, structure: Structure, losses: Iterable[Loss] | None = None
) -> list[Tensor]:
    """What each unit of each coupling is worth, as (units,) float64, all positive, by the importance `name`.

    Args:
        losses: for the importances that need data, one callable a batch; their gradients are summed.

    Raises:
        UserError: an importance that needs data got none, or looks at nothing that this model has, or the model's
            weights are not finite.
    """
    chosen = importance(name)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
        raise UserError(
            "the model's weights hold values that are not finite: nothing can be ranked by them"
        )
    if chosen.needs != "nothing":
        gradients(model, name, losses, squares=chosen.needs == "squares")
    scorer = chosen.scorer()
    scored = [scorer(coupling.group) for coupling in structure.couplings]
    if scored and all(scores is None for scores in scored):
        raise UserError(
            f"importance {name!r} has nothing to rank by in this network; 'magnitude' has in any"
        )
    found = []
    for coupling, scores in zip(structure.couplings, scored, strict=True):
        if (
            scores is None
        ):  # a coupling without a layer that this importance looks at, as batch norm for bn-scale
            scores = torch.ones(coupling.units.numel())
        scores = (
            scores.detach().double().cpu().nan_to_num(0.0)
        )  # the mean of a coupling of zeros divides by zero
        found.append(scores[coupling.units].sum(dim=1).clamp_min(1e-12))
    return found


def gradients(
    model: nn.Module, name: str, losses: Iterable[Loss] | None, squares: bool = False
) -> None:
    """Leave in each parameter's `grad` the sum of its gradients over `losses`, or the mean of their squares; zeros if
    the losses do not depend on it.

    Raises:
        UserError: there is no data for the importance `name`, or no finite gradient.
    """
    if losses is None:
        raise UserError(f"importance {name!r} needs data to measure on; 'magnitude' needs none")
    parameters = list(model.parameters())
    model.zero_grad(set_to_none=True)
    means = [torch.zeros_like(p) for p in parameters]
    batches = 0
    for batches, loss in enumerate(losses, start=1):
        with full_precision():
            torch.autograd.backward(loss(model))
        if squares:
            for mean, parameter in zip(means, parameters, strict=True):
                if parameter.grad is not None:
                    mean += (parameter.grad.square() - mean) / batches
            model.zero_grad(set_to_none=False)
    for mean, parameter in zip(means, parameters, strict=True):
        if squares or parameter.grad is None:
            parameter.grad = mean
    found = [p.grad for p in parameters if p.grad is not None]
    if not any(bool(grad.any()) for grad in found) or not all(
        bool(torch.isfinite(grad).all()) for grad in found
    ):
        raise UserError(
            f"importance {name!r} found no gradients to rank by: the loss is not finite, or has no data"
        )
