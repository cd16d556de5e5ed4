"""Uneven classes: weights, chances, and the views that are drawn by them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.data.balance import draw_chances, is_uneven, log_priors
from compress.data.random_views import draw_order
from compress.training.classification import Classification

TARGETS = torch.tensor([0] * 900 + [1] * 100)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200))
def test_priors_are_the_frequencies(targets: list[int]) -> None:
    numbers = torch.tensor(targets)
    priors = log_priors(numbers, 5).exp()
    counts = numbers.bincount(minlength=5).clamp(min=1).double()
    assert torch.allclose(priors, counts / counts.sum())


def test_a_ninth_of_the_images_has_three_times_the_chance() -> None:
    chances = draw_chances(TARGETS, 2)
    assert (chances[-1] / chances[0]).item() == pytest.approx(3)
    assert is_uneven(TARGETS, 2) and not is_uneven(TARGETS[700:], 2)


def test_the_adjusted_loss_prefers_logits_without_the_priors() -> None:
    """Logits that are the priors alone, which say nothing of an image, have the loss of chance."""
    priors = log_priors(TARGETS, 2)
    adjusted = Classification(2, tuple(priors.tolist()))
    blind = torch.zeros(1000, 2)
    assert adjusted.label_loss(blind, TARGETS) == pytest.approx(
        Classification(2).label_loss(blind + priors, TARGETS).item()
    )


def test_views_draw_small_classes_more_often() -> None:
    chances = draw_chances(TARGETS, 2)
    drawn = TARGETS[draw_order(1000, 0, 0, chances)].bincount()
    assert 200 < drawn[1] < 300
    again = draw_order(1000, 0, 0, chances)
    assert torch.equal(again, draw_order(1000, 0, 0, chances))
    assert not torch.equal(again, draw_order(1000, 0, 1, chances))
