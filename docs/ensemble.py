"""Several trained networks as one teacher, for `--builder docs.ensemble:ensemble`.

`python -m docs.ensemble ensemble.pt` writes their tensors to one file, for `compress adopt`.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

import compress

FILES = (
    "weights/fashion-mnist-300k.pth",
    "weights/fashion-mnist-100k.pth",
    # compress run docs/experiments/recipes/long.toml --out runs/long
    "runs/long/model.pth",
)


class Ensemble(nn.Module):
    """Networks whose logits are averaged: images (B, C, H, W) to logits (B, classes)."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([network(images) for network in self.networks]).mean(0)


def ensemble(num_classes: int) -> nn.Module:
    """Load the networks; all of them have `num_classes` classes and the same normalization."""
    return Ensemble([compress.load(file).model for file in FILES])


if __name__ == "__main__":
    torch.save(ensemble(10).state_dict(), sys.argv[1])
