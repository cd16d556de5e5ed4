"""Uneven classes: weights, chances, and the views that are drawn by them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.data.balance import class_weights, is_uneven
from compress.data.random_views import draw_order

TARGETS = torch.tensor([0] * 900 + [1] * 100)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200))
def test_weights_are_1_on_average_over_the_images(targets: list[int]) -> None:
    numbers = torch.tensor(targets)
    weights = class_weights(numbers, 5)
    assert weights[numbers].mean().item() == pytest.approx(1)
    counts = numbers.bincount(minlength=5)
    assert (weights[counts.argmin()] >= weights[counts.argmax()]).item()


def test_nine_times_as_many_images_weigh_a_third() -> None:
    weights = class_weights(TARGETS, 2)
    assert (weights[1] / weights[0]).item() == pytest.approx(3)
    assert is_uneven(TARGETS, 2) and not is_uneven(TARGETS[700:], 2)


def test_views_draw_small_classes_more_often() -> None:
    chances = class_weights(TARGETS, 2)[TARGETS]
    drawn = TARGETS[draw_order(1000, 0, 0, chances)].bincount()
    assert 200 < drawn[1] < 300
    again = draw_order(1000, 0, 0, chances)
    assert torch.equal(again, draw_order(1000, 0, 0, chances))
    assert not torch.equal(again, draw_order(1000, 0, 1, chances))
