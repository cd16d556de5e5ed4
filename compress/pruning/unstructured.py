"""Pruning weight by weight: single weights become zero, the shape of the network stays as it was.

It keeps more accuracy at a given count than whole channels do, and buys neither a smaller file nor a faster network:
that is why channels are the default.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import prune as torch_prune

from compress.models.cost import prunable_layers
from compress.pruning.importance import Loss, gradients
from compress.runtime.errors import UserError

IMPORTANCES = ("magnitude", "taylor")


def prune_weights(
    model: nn.Module,
    budget: int,
    *,
    importance: str = "magnitude",
    losses: Iterable[Loss] | None = None,
) -> nn.Module:
    """A copy of `model` with exactly `budget` parameters left: the others are zero, those worth least in the whole
    network (torch's own global unstructured pruning; Han et al. 2015, arXiv:1506.02626).

    Biases and normalizations are kept whole, and counted; of every layer at least the best weight stays.

    Args:
        importance: ``magnitude`` of the weight, or ``taylor``, the magnitude of weight times gradient (Molchanov et al.
            2019, arXiv:1906.10771).
        losses: what ``taylor`` measures on, one callable a batch.

    Raises:
        UserError: the budget leaves no weight at all, or nothing to prune, or the weights are not finite.
    """
    check(importance)
    model = copy.deepcopy(model).to(
        memory_format=torch.contiguous_format
    )  # torch's pruning flattens by view
    layers = prunable_layers(model)
    whole = sum(p.numel() for p in model.parameters())
    if budget < (lowest := least(model)):
        raise UserError(
            f"a budget of {budget:,} is out of reach: the least for this network, by weights, is {lowest:,}"
        )
    if budget >= whole - sum(int(layer.weight.eq(0).sum()) for layer in layers):
        raise UserError(
            f"nothing to prune: the budget is {budget:,} and the model has no more parameters than that"
        )
    scores = _scores(importance, model, layers, losses)
    torch_prune.global_unstructured(
        [(layer, "weight") for layer in layers],
        pruning_method=torch_prune.L1Unstructured,
        importance_scores={
            (layer, "weight"): score for layer, score in zip(layers, scores, strict=True)
        },
        amount=whole - budget,
    )
    for layer in layers:
        torch_prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    return model


def least(model: nn.Module) -> int:
    """The fewest parameters that pruning by weights can leave: one weight a layer, biases and normalizations."""
    layers = prunable_layers(model)
    return sum(p.numel() for p in model.parameters()) - sum(
        layer.weight.numel() - 1 for layer in layers
    )


def check(importance: str) -> None:
    """Refuse an importance that does not rank weights."""
    if importance not in IMPORTANCES:
        raise UserError(
            f"importance {importance!r} ranks channels; weights are ranked by {' or '.join(IMPORTANCES)}"
        )


def hold_zeros(model: nn.Module) -> None:
    """Keep weights that are zero at zero, whatever an optimizer does, until `release_zeros`."""
    for layer in prunable_layers(model):
        parametrize.register_parametrization(layer, "weight", _Masked(layer.weight.detach().ne(0)))


def release_zeros(model: nn.Module) -> None:
    """Make `model` a plain network again, with those zeros in it."""
    for layer in prunable_layers(model):
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


class _Masked(nn.Module):
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def _scores(
    name: str, model: nn.Module, layers: list[nn.Conv2d | nn.Linear], losses: Iterable[Loss] | None
) -> list[Tensor]:
    """What each weight is worth; what is zero already is worth less than anything else."""
    if not all(bool(torch.isfinite(layer.weight).all()) for layer in layers):
        raise UserError(
            "the model's weights hold values that are not finite: nothing can be ranked by them"
        )
    if name == "taylor":
        gradients(model, name, losses)
    found = []
    for layer in layers:
        weight: Tensor = layer.weight.detach()
        grad = layer.weight.grad if name == "taylor" else None
        score = weight.abs() if grad is None else (weight * grad).abs()
        score = score.clamp_min(torch.finfo(score.dtype).tiny) * (weight != 0)
        if bool(score.any()):  # nothing would get through a layer without any weight
            score[torch.unravel_index(score.argmax(), score.shape)] = torch.inf
        found.append(score)
    model.zero_grad(set_to_none=True)
    return found
