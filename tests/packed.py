"""Small networks as they are before they become weights files."""

from __future__ import annotations

import functools
from typing import Any

import torch

from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.pruning.pruner import prune
from compress.recipe.model_spec import ModelSpec


def packed(
    name: str, stem: Any = "imagenet", side: int = 28, keep: float | None = None, classes: int = 5
) -> Checkpoint:
    torch.manual_seed(0)
    network = ModelSpec(name, stem)
    model = build(network, classes).eval()
    if keep is not None:
        whole = sum(p.numel() for p in model.parameters())
        model = prune(model, torch.zeros(1, 3, side, side), int(keep * whole))
    names = tuple(f"class {i}" for i in range(classes))
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    return Checkpoint(
        model,
        network,
        names,
        (3, side, side),
        mean,
        std,
        "made up",
        {"seed": 0, "notes": ["a", None]},
    )


@functools.cache
def small() -> Checkpoint:
    return packed("resnet18", "small", 28, 0.0005)
