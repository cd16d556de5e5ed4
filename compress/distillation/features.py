"""Feature maps of two networks: tapping them, and making them comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.distillation.feature_taps import tap_features
from compress.training.objective import Forward


@dataclass(frozen=True)
class Tapped:
    """A network, and the layers whose feature maps are compared.

    Args:
        forward: the forward pass of `network`.
        paths: module paths, in the order of the forward pass.
        example: a batch of images (B, 3, H, W), to measure the maps on.
    """

    network: nn.Module
    forward: Forward
    paths: tuple[str, ...]
    example: Tensor

    def run(
        self, images: Tensor, forward: Forward | None = None, before_relu: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the logits for `images`, and the feature map (B, C, H, W) of each path in float32.

        Args:
            forward: runs in place of the network's own forward pass; the trainer's, for example.
            before_relu: as for `compress.distillation.feature_taps.tap_features`.
        """
        with tap_features(self.network, self.paths, before_relu) as maps:
            logits = (forward or self.forward)(images)
        return logits, [maps[path].float() for path in self.paths]

    @torch.no_grad()
    def measure(self, before_relu: bool = False) -> list[Tensor]:
        """Return the feature maps of the example, in evaluation mode."""
        self.network.eval()
        return self.run(self.example, before_relu=before_relu)[1]


def match_sizes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Average two maps (B, C, H, W) down to the smaller height and the smaller width."""
    size = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return _shrink(a, size), _shrink(b, size)


def map_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared error of two maps (B, C, H, W), the larger one averaged down."""
    return F.mse_loss(*match_sizes(student, teacher))


def make_projections(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> nn.ModuleList:
    """Make, for each pair of maps, a 1×1 convolution from the student's width to the teacher's.

    Where the widths are equal, it is the identity.
    """
    widths = [(s.shape[1], t.shape[1]) for s, t in zip(student, teacher, strict=True)]
    return nn.ModuleList(nn.Identity() if s == t else nn.Conv2d(s, t, 1) for s, t in widths)


def _shrink(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)
