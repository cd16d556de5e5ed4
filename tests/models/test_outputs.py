"""Probabilities are not logits: networks that end in a softmax or a sigmoid are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import compress
from compress.models.outputs import refuse_probabilities
from compress.runtime.errors import UserError


class Net(nn.Module):
    def __init__(self, last: nn.Module, outputs: int = 3) -> None:
        super().__init__()
        self.head, self.last = nn.Linear(3, outputs), last

    def forward(self, images: Tensor) -> Tensor:
        ended: Tensor = self.last(self.head(images.mean((2, 3))))
        return ended


@pytest.mark.parametrize(
    ("last", "word"),
    [(nn.Softmax(1), "softmax"), (nn.Sigmoid(), "sigmoid")],
)
def test_probabilities_are_refused(last: nn.Module, word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"it returns probabilities.*without the {word}"):
        refuse_probabilities(Net(last).requires_grad_(False), (3, 8, 8), "it")
    with pytest.raises(UserError, match=word):
        compress.save(Net(last), tmp_path / "net.pth", classes=3, image_size=8)


@pytest.mark.parametrize(
    "last", [nn.LogSoftmax(1), nn.LogSigmoid(), nn.Identity(), nn.ReLU(), nn.Tanh()]
)
@pytest.mark.parametrize("outputs", [1, 3])
def test_logits_are_not(last: nn.Module, outputs: int) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        refuse_probabilities(Net(last, outputs), (3, 8, 8), "it")


def test_zeros_are_not_and_a_network_that_does_not_run_is_left_alone() -> None:
    net = Net(nn.Identity())
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    refuse_probabilities(net, (3, 8, 8), "it")
    refuse_probabilities(Net(nn.Softmax(1)), (1, 8, 8), "it")
