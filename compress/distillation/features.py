"""What objectives on feature maps share: looking at a network's maps, and making two networks' maps comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.distillation.feature_taps import tapped
from compress.training.trainer import Forward


@dataclass(frozen=True)
class Tapped:
    """A network and the modules of it that an objective looks at.

    Args:
        forward: how images go through `network`.
        paths: module paths, in the order in which images pass them.
        example: a batch of images (B, 3, H, W) to measure the maps on.
    """

    network: nn.Module
    forward: Forward
    paths: tuple[str, ...]
    example: Tensor

    def look(
        self, images: Tensor, forward: Forward | None = None, before_relu: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """The logits for `images`, and on the way there the map (B, C, H, W) of each path, float32.

        `forward` stands in for the network's own, as the training loop's; `before_relu` as for `tapped`.
        """
        with tapped(self.network, self.paths, before_relu) as kept:
            logits = (forward or self.forward)(images)
        return logits, [kept[path].float() for path in self.paths]

    @torch.no_grad()
    def measure(self, before_relu: bool = False) -> list[Tensor]:
        """The maps of the example, in evaluation mode."""
        self.network.eval()
        return self.look(self.example, before_relu=before_relu)[1]


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B, C, H, W), each averaged down to the smaller of the two heights and widths."""
    side = (min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3]))
    return _shrunk(a, side), _shrunk(b, side)


def map_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared error of two maps (B, C, H, W), the larger one averaged down to the other's size."""
    return F.mse_loss(*same_size(student, teacher))


def _shrunk(maps: Tensor, side: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == side else F.adaptive_avg_pool2d(maps, side)


def projections(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> nn.ModuleList:
    """For each pair of maps a 1×1 convolution from the student's width to the teacher's; nothing where they agree."""
    widths = [(s.shape[1], t.shape[1]) for s, t in zip(student, teacher, strict=True)]
    return nn.ModuleList(
        nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1) for ours, theirs in widths
    )
