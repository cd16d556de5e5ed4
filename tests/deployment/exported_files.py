"""A weights file, and the files exported from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from compress.deployment.export import ExportResult
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec


@dataclass(frozen=True)
class Exported:
    """A weights file, and the files exported from it."""

    weights: Path
    checkpoint: Checkpoint
    onnx: ExportResult
    pixels: ExportResult


class Bessel(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images)


def own_network(layer: nn.Module) -> Checkpoint:
    model = nn.Sequential()
    model.add_module("odd", layer)
    model.add_module("head", nn.Sequential(nn.Flatten(), nn.Linear(48, 2)))
    one = (0.5,) * 3
    return Checkpoint(model.eval(), ModelSpec("a:b"), ("a", "b"), (3, 4, 4), one, one, "made up")
