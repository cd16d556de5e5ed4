"""Modules in hand: an accurate one is recognized on few and uneven images, a random one never."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.data.dataset import Dataset
from compress.data.in_memory import to_source
from compress.data.open_dataset import open_dataset
from compress.pipeline.score_module import agrees, has_new_norms, score_module
from compress.recipe.in_memory import hold, holding


class Shades(nn.Module):
    """Tells how bright an image is, in equal steps."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.linspace(0.1, 0.9, classes))

    def forward(self, images: Tensor) -> Tensor:
        return -(images.mean((1, 2, 3))[:, None] - self.levels).square()


class Blind(nn.Module):
    """Answers without regard to what an image shows, each time otherwise."""

    def __init__(self, classes: int, seed: int) -> None:
        super().__init__()
        self.classes = nn.Parameter(torch.zeros(classes))
        self.generator = torch.Generator().manual_seed(seed)

    def __deepcopy__(self, memo: object) -> Blind:
        return self

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.rand(len(images), len(self.classes), generator=self.generator)
        return noise + self.classes + 0 * images.mean()


def make_data(train: list[int], val: list[int]) -> Dataset:
    """Return data with so many images of each class, told apart by brightness."""

    def draw(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(len(counts)), counts)
        values = np.linspace(0.1, 0.9, len(counts))[labels]
        return np.tile(values[:, None, None], (1, 8, 8)).astype(np.float32), labels

    with holding():
        source, _ = to_source((draw(train), draw(val)), image_size=8)
        return open_dataset(hold(f"memory:{source.name}", source))


SPLITS = [
    ([40, 40], [4, 4]),
    ([30, 30], [8, 8]),
    ([90, 10], [36, 4]),
    ([380, 20], [285, 15]),
    ([100, 100, 100], [10, 10, 10]),
    ([9] * 10, [1] * 10),
]


@pytest.mark.parametrize(("train", "val"), SPLITS)
def test_an_accurate_module_counts_as_trained(train: list[int], val: list[int]) -> None:
    found = score_module(Shades(len(train)), make_data(train, val))
    assert found.score == 1 and found.trained


@pytest.mark.parametrize(("train", "val"), SPLITS)
def test_a_blind_module_does_not(train: list[int], val: list[int]) -> None:
    data = make_data(train, val)
    assert not any(score_module(Blind(len(train), seed), data).trained for seed in range(12))


def test_always_naming_the_largest_class_is_not_agreement() -> None:
    labels = torch.tensor([0] * 95 + [1] * 5)
    assert not agrees(torch.zeros_like(labels), labels)
    assert agrees(labels, labels)
    # A network that finds the rare class at the price of accuracy has learned something.
    alarmed = labels.clone()
    alarmed[:5] = 1
    assert agrees(alarmed, labels)


def test_the_images_that_were_scored_are_named() -> None:
    assert "16 validation" not in score_module(Shades(2), make_data([30, 30], [8, 8])).images
    assert "60 validation" in score_module(Shades(2), make_data([40, 40], [30, 30])).images
    assert "500" in score_module(Shades(2), make_data([40, 40], [300, 300])).images


def test_batch_norms_that_have_seen_no_image_are_not_trained() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3), Shades(2))
    data = make_data([40, 40], [30, 30])
    found = score_module(net, data)
    assert has_new_norms(net) and not found.trained and "batch norms" in found.reason
    net.train()(torch.rand(4, 3, 8, 8))
    net[0].running_mean *= 1e-3
    net[0].running_var.fill_(0.999)
    assert not has_new_norms(net) and score_module(net, data).trained
    assert not has_new_norms(Shades(2))


def test_what_a_module_raises_is_told() -> None:
    found = score_module(nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), make_data([9, 9], [5, 5]))
    assert "mat1 and mat2" in found.reason and not found.trained
