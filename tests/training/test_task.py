"""The task of masks: loss, metric, chance, against plain formulas and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchmetrics.functional.classification import multiclass_jaccard_index

from compress.data.batches import Batch
from compress.distillation.channelwise import channelwise_loss
from compress.distillation.kd import kd_loss
from compress.training.evaluate import measure_scores
from compress.training.forward import make_forward
from compress.training.segmentation import Segmentation, dice_loss

TASK = Segmentation(3)


def logits_of(masks: torch.Tensor, classes: int = 3) -> torch.Tensor:
    return 50 * F.one_hot(masks.clamp(max=classes - 1), classes).movedim(-1, 1).float()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), batches=st.integers(1, 3))
def test_mean_iou_is_that_of_torchmetrics(seed: int, batches: int) -> None:
    random = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 3, (2 * batches, 5, 5), generator=random)
    masks[torch.rand(masks.shape, generator=random) < 0.3] = 255
    logits = torch.randn(2 * batches, 3, 5, 5, generator=random)
    counts = sum(
        TASK.count(a, b)
        for a, b in zip(logits.split(2), masks.split(2), strict=True)  # type: ignore[misc]
    )
    score, accuracy = TASK.score(counts)  # type: ignore[arg-type]
    expected = multiclass_jaccard_index(logits, masks, 3, ignore_index=255)
    assert score == pytest.approx(float(expected), abs=1e-6)
    known = masks != 255
    right = (logits.argmax(1) == masks)[known]
    assert accuracy == pytest.approx(float(right.float().mean()), abs=1e-6)


def test_the_loss_is_the_mean_over_the_pixels_that_count() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randint(0, 3, (2, 4, 4))
    masks[0, :2] = 255
    rows = logits.movedim(1, -1)[masks != 255]
    expected = F.cross_entropy(rows, masks[masks != 255])
    torch.testing.assert_close(TASK.label_loss(logits, masks), expected)
    nothing = TASK.label_loss(logits, torch.full_like(masks, 255))
    nothing.backward()  # type: ignore[no-untyped-call]
    assert float(nothing.detach()) == 0 and not logits.grad.any()  # type: ignore[union-attr]


def test_dice_is_zero_for_the_right_masks_and_one_for_wrong_ones() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.int64)
    masks[0, :2], masks[0, 3] = 1, 255
    assert float(dice_loss(logits_of(masks), masks)) == pytest.approx(0, abs=1e-5)
    wrong = torch.where(masks == 255, 0, 1 - masks.clamp(max=1))
    assert float(dice_loss(logits_of(wrong), masks)) == pytest.approx(1, abs=1e-5)
    # Half of each class right: 2 · 2 / (4 + 4).
    half = torch.zeros(1, 2, 4, dtype=torch.int64)
    half[0, :, 2:] = 1
    rows = torch.zeros(1, 2, 4, dtype=torch.int64)
    rows[0, 1] = 1
    assert float(dice_loss(logits_of(half), rows)) == pytest.approx(0.5, abs=1e-5)
    both = Segmentation(3, dice=2.0).label_loss(logits_of(half), rows)
    alone = TASK.label_loss(logits_of(half), rows)
    assert float(both - alone) == pytest.approx(1.0, abs=1e-4)


def test_chance_is_the_score_of_naming_the_largest_class() -> None:
    masks = torch.tensor([[[0, 0, 0, 1], [0, 255, 255, 2]]], dtype=torch.uint8)
    named = TASK.count(logits_of(torch.zeros_like(masks).long()), masks.long())
    assert TASK.chance(masks) == pytest.approx(TASK.score(named)[0])


def test_logits_are_brought_to_the_size_of_the_images() -> None:
    network = nn.Conv2d(3, 3, 1)
    batch = Batch(torch.randn(2, 3, 8, 8), torch.zeros(2, 8, 8).long(), torch.arange(2), 0)
    assert make_forward(network, 4)(batch.images).shape == (2, 3, 8, 8)
    scores = measure_scores(network, [batch], TASK, image_size=4)
    assert 0 <= scores.main <= scores.second <= 1
    assert measure_scores(network, [], TASK).main == 0


def test_kd_takes_pixels_for_samples() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 4, 4)
    rows = [logits.movedim(1, -1).reshape(-1, 3) for logits in (student, teacher)]
    torch.testing.assert_close(kd_loss(student, teacher, 2.0), kd_loss(rows[0], rows[1], 2.0))


def test_channelwise_distillation_is_the_papers() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64)
    total = 0.0
    for ours, theirs in zip(
        student.flatten(0, 1).numpy(), teacher.flatten(0, 1).numpy(), strict=True
    ):
        q, p = (np.exp(m / 4) / np.exp(m / 4).sum() for m in (ours, theirs))
        total += 16 * float((p * np.log(p / q)).sum()) / 6
    assert float(channelwise_loss(student, teacher, 4.0)) == pytest.approx(total)


def test_images_are_summarized_by_parts_and_masks() -> None:
    masks = torch.zeros(1, 4, 4, dtype=torch.int64)
    masks[0, 0], masks[0, 1, :2] = 1, 2
    parts, [mask] = TASK.summarize(logits_of(masks).softmax(1))
    assert parts.tolist() == [[10 / 16, 4 / 16, 2 / 16]]
    assert mask is not None and mask.dtype == torch.uint8 and torch.equal(mask.long(), masks[0])
