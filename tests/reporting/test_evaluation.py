"""Scores by class, on images whose corner is known and on a test split."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import CLASSES, Tiny
from toy_classifiers import CORNER, SHADE, corner_image

from compress.deployment.predict import prepare
from compress.models import checkpoint
from compress.reporting.evaluation import score_per_class, score_test_split
from compress.runtime.errors import UserError
from compress.training.task import Classification


def test_scores_are_counted_by_class() -> None:
    boxes = ((0, 0, 20, 20), (20, 0, 40, 20))
    images = torch.cat([prepare(corner_image(box=box), CORNER) for box in boxes])
    batches: list[Any] = [
        # The second image is at the top right; its label is the bottom left.
        SimpleNamespace(images=images, targets=torch.tensor([0, 2])),
        SimpleNamespace(images=images[:1], targets=torch.tensor([0])),
    ]
    correct, total = score_per_class(CORNER.model, batches, Classification(4))
    assert correct.tolist() == [2, 0, 0, 0] and total.tolist() == [2, 0, 1, 0]
    assert correct.dtype == total.dtype == torch.int64


def test_test_split_is_scored_completely(tiny: Tiny, weights: Path) -> None:
    loaded = checkpoint.load(weights)
    correct, total = score_test_split(loaded, f"folder:{tiny.data}")
    assert total.tolist() == [20] * len(CLASSES)
    # The network is untrained: it predicts one class nearly always.
    assert bool((correct <= total).all()) and 0 < int(correct.sum()) < 80
    again = score_test_split(loaded)
    assert torch.equal(correct, again[0]) and torch.equal(total, again[1])


def test_data_with_other_classes_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"classes.*made up"):
        score_test_split(SHADE, f"folder:{tiny.data}")
