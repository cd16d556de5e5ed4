"""Mirror images: a network decides if they show what the images show."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.training.classification import Classification
from compress.training.mirror import MirrorTest, measure_mirroring


class LeftOrRight(nn.Module):
    """Tells bright left halves from bright right ones; blind to halves if `blind`."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.blind = blind

    def forward(self, images: Tensor) -> Tensor:
        half = images.shape[-1] // 2
        left, right = images[..., :half].mean((1, 2, 3)), images[..., half:].mean((1, 2, 3))
        if self.blind:
            left, right = left + right, 0.5 - left - right
        return self.scale * torch.stack([left, right], dim=1)


def batches(blind: bool) -> Iterator[Batch]:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(200, 3, 8, 8, generator=random)
    targets = torch.arange(200) % 2
    if blind:
        images = images / 2 * (1 - targets)[:, None, None, None]
    else:
        images[targets == 0, :, :, 4:] /= 4
        images[targets == 1, :, :, :4] /= 4
    for start in (0, 100):
        rows = torch.arange(start, start + 100)
        yield Batch(images[rows], targets[rows], rows, start)


def test_sides_are_not_mirrored() -> None:
    found = measure_mirroring(LeftOrRight(), batches(False), Classification(2), image_size=8)
    assert found.mirrors is False
    assert (found.images, found.plain, found.mirrored) == (200, 1.0, 0.0)


def test_brightness_is_mirrored() -> None:
    found = measure_mirroring(LeftOrRight(True), batches(True), Classification(2), image_size=8)
    assert found.mirrors and found.plain == found.mirrored


def test_a_network_that_knows_little_decides_nothing() -> None:
    found = measure_mirroring(LeftOrRight(True), batches(False), Classification(2), image_size=8)
    assert found.mirrors is None


@pytest.mark.parametrize(
    ("gap", "error", "mirrors"),
    [(0.0, 0.01, True), (0.05, 0.02, True), (0.0, 0.2, None), (0.3, 0.2, None), (0.5, 0.1, False)],
)
def test_few_images_tell_nothing(gap: float, error: float, mirrors: bool | None) -> None:
    found = MirrorTest(100, 0.9, 0.9, gap, error, known=1.0, entropy=1.5)
    assert found.mirrors is mirrors
    assert MirrorTest(100, 0.9, 0.9, gap, error, known=1.0, entropy=2.5).mirrors is None
