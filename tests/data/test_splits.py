"""Splits: disjoint, complete, and with the classes in proportion."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data.splits import draw_balanced_order, split_groups, split_rows

class_lists = st.lists(st.integers(0, 6), min_size=1, max_size=120).map(torch.tensor)


@settings(max_examples=60, deadline=None)
@given(class_lists, st.integers(0, 1000), st.data())
def test_a_split_is_disjoint_complete_and_in_proportion(
    targets: torch.Tensor, seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(targets)))
    chosen, rest = split_rows(targets, count, seed)
    assert len(chosen) == count
    assert sorted(chosen.tolist() + rest.tolist()) == list(range(len(targets)))
    assert chosen.tolist() == sorted(chosen.tolist()) and rest.tolist() == sorted(rest.tolist())
    sizes = targets.bincount(minlength=7).tolist()
    for size, found in zip(sizes, targets[chosen].bincount(minlength=7).tolist(), strict=True):
        exact = size * count / len(targets)
        assert math.floor(exact + 1e-9) <= found <= math.ceil(exact - 1e-9)


@settings(max_examples=40, deadline=None)
@given(class_lists, st.integers(0, 1000), st.data())
def test_a_smaller_selection_is_part_of_a_larger_one(
    targets: torch.Tensor, seed: int, data: st.DataObject
) -> None:
    larger = data.draw(st.integers(0, len(targets)))
    smaller = data.draw(st.integers(0, larger))
    chosen = [set(split_rows(targets, count, seed)[0].tolist()) for count in (smaller, larger)]
    assert chosen[0] <= chosen[1]


def test_a_split_depends_on_the_seed_alone() -> None:
    targets = torch.arange(300) % 3
    torch.manual_seed(1)
    first = draw_balanced_order(targets, 5)
    torch.manual_seed(2)
    assert torch.equal(first, draw_balanced_order(targets, 5))
    assert not torch.equal(first, draw_balanced_order(targets, 6))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=4, max_size=60),
    st.floats(0.05, 0.6),
    st.integers(0, 5),
)
def test_groups_stay_together_and_no_class_is_lost(
    rows: list[tuple[int, int]], fraction: float, seed: int
) -> None:
    """Each group is of one class, as those of near-duplicates are."""
    targets = torch.tensor([kind for kind, _ in rows])
    groups = torch.tensor([10 * kind + group for kind, group in rows])
    count = max(1, round(fraction * len(rows)))
    chosen, rest = split_groups(targets, groups, count, seed)
    assert sorted([*chosen.tolist(), *rest.tolist()]) == list(range(len(rows)))
    assert not set(groups[chosen].tolist()) & set(groups[rest].tolist())
    assert len(chosen) <= count
    assert set(targets[rest].tolist()) == set(targets.tolist())


def test_single_rows_as_groups_are_split_in_proportion() -> None:
    targets = torch.tensor([0] * 60 + [1] * 40)
    chosen, _ = split_groups(targets, torch.arange(100), 20, seed=0)
    assert targets[chosen].bincount().tolist() == [12, 8]
