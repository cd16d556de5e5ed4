"""Accuracy of a network on batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.training.classification import Classification
from compress.training.evaluate import measure_accuracy


def test_accuracy_counts_correct_answers() -> None:
    class Third(nn.Module):
        """Answers correctly for every third image."""

        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            assert not self.training
            return images[:, 0, 0] + self.bias

    targets = torch.arange(30) % 4
    answers = torch.eye(4)[(targets + (torch.arange(30) % 3 > 0)) % 4]
    images = answers[:, None, None, :].expand(-1, 3, 4, 4)
    slices = [slice(start, start + 7) for start in range(0, 30, 7)]
    batches = [Batch(images[s], targets[s], torch.arange(30)[s], s.start) for s in slices]
    model = Third().train()
    assert (
        measure_accuracy(model, batches, Classification(4)) == pytest.approx(10 / 30)
        and model.training
    )
    assert measure_accuracy(model, [], Classification(4)) == 0
