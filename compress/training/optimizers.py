"""Optimizers by name, and the exponential moving average of the weights."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from compress.recipe.stages import Train
from compress.training.muon import Muon

# ``auto``: the number of parameters up to which Muon is affordable on a CPU, and the least share of
# them that are in convolutions, and of convolutions that have a batch norm.
MUON_PARAMETERS, MUON_SHARE = 2_000_000, 0.9
# The learning rate and the weight decay with AdamW, relative to those with Muon.
ADAMW_RATE, ADAMW_DECAY = 1 / 50, 100


def settle_optimizer(stage: Train, model: nn.Module) -> Train:
    """Return `stage` with the optimizer that ``auto`` stands for.

    Example:
        >>> settle_optimizer(Train(kind="finetune", optimizer="auto"), nn.Linear(8, 8)).optimizer
        'adamw'
    """
    if stage.optimizer != "auto":
        return stage
    if _suits_muon(model):
        return replace(stage, optimizer="muon")
    lr, weight_decay = ADAMW_RATE * stage.lr, ADAMW_DECAY * stage.weight_decay
    return replace(stage, optimizer="adamw", lr=lr, weight_decay=weight_decay)


def _suits_muon(model: nn.Module) -> bool:
    trained = [
        module
        for module in model.modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    ]
    convolutions = [module for module in trained if isinstance(module, _ConvNd)]
    norms = [module for module in trained if isinstance(module, _BatchNorm)]
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    turned = sum(conv.weight.numel() for conv in convolutions if conv.weight.dim() == 4)
    # Muon keeps the norm of a convolution's weights: that of the logits must be free to change.
    ends_in_convolution = bool(trained) and isinstance(trained[-1], _ConvNd)
    return (
        not ends_in_convolution
        and total <= MUON_PARAMETERS
        and turned >= MUON_SHARE * total
        and len(norms) >= MUON_SHARE * len(convolutions)
    )


def build_optimizer(model: nn.Module, objective: nn.Module, stage: Train) -> torch.optim.Optimizer:
    """Build the optimizer that `stage` names, for a model and the objective's own parameters.

    Weight decay applies to weights only, and not to biases and normalizations, which are
    one-dimensional.

    Raises:
        ValueError: the stage leaves its optimizer open; `settle_optimizer` decides it.
    """
    if stage.optimizer == "auto":
        raise ValueError("settle the stage's optimizer first")
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": stage.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        {
            "params": list(objective.parameters()),
            "weight_decay": stage.weight_decay,
            "turn": False,
        },
    ]
    if stage.optimizer == "muon":
        return Muon(groups, lr=stage.lr)
    if stage.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=stage.lr, momentum=0.9, nesterov=True)
    # Fused: one pass over memory instead of ten.
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(groups, lr=stage.lr, fused=fused)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Update the moving average of the weights with the weights of `model`.

    Floating-point buffers are averaged too; integers are copied. The average spans at most 1 / (1 -
    decay) steps, and fewer at the beginning, so that short stages are averaged as well. torch's
    AveragedModel keeps its step count on the device, so that every step would wait for the GPU.

    Args:
        step: number of the step that has just been taken, counted from 0.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step)) if step else 1.0
    torch._foreach_lerp_(_tensors(average, True), _tensors(model, True), weight)
    if counts := _tensors(average, False):
        torch._foreach_copy_(counts, _tensors(model, False))


def _tensors(model: nn.Module, floating: bool) -> list[Tensor]:
    return [
        tensor
        for tensor in chain(model.parameters(), model.buffers())
        if tensor.is_floating_point() == floating
    ]
