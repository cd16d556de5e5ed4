"""Checkpoints of small networks, as they are before saving."""

from __future__ import annotations

import functools
from typing import Any

import torch

from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.pruning.pruner import prune
from compress.recipe.model_spec import ModelSpec


def make_checkpoint(
    name: str, stem: Any = "imagenet", side: int = 28, keep: float | None = None, classes: int = 5
) -> Checkpoint:
    """Build a network with random weights, pruned to the fraction `keep` of its parameters."""
    torch.manual_seed(0)
    spec = ModelSpec(name, stem)
    model = build(spec, classes).eval()
    if keep is not None:
        params = sum(p.numel() for p in model.parameters())
        model = prune(model, torch.zeros(1, 3, side, side), int(keep * params))
    return Checkpoint(
        model=model,
        network=spec,
        classes=tuple(f"class {i}" for i in range(classes)),
        input_size=(3, side, side),
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        data="made up",
        origin={"seed": 0, "notes": ["a", None]},
    )


@functools.cache
def small_checkpoint() -> Checkpoint:
    """Return a ResNet-18 of about 5,000 parameters; the same object every time."""
    return make_checkpoint("resnet18", "small", 28, 0.0005)
