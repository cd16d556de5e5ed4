import math
from pathlib import Path

import pytest
import torch
from dataset_files import mnist_files
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data.dataset import Dataset, open_dataset
from compress.data.splits import balanced_order, split
from compress.runtime.errors import UserError

class_lists = st.lists(st.integers(0, 6), min_size=1, max_size=120).map(torch.tensor)


@settings(max_examples=60, deadline=None)
@given(class_lists, st.integers(0, 1000), st.data())
def test_a_split_is_disjoint_complete_and_in_proportion(
    targets: torch.Tensor, seed: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(targets)))
    chosen, rest = split(targets, count, seed)
    assert len(chosen) == count
    assert sorted(chosen.tolist() + rest.tolist()) == list(range(len(targets)))
    for size, got in zip(
        targets.bincount().tolist(), targets[chosen].bincount(minlength=7).tolist(), strict=False
    ):
        exact = size * count / len(targets)
        assert math.floor(exact + 1e-9) <= got <= math.ceil(exact - 1e-9)


@settings(max_examples=40, deadline=None)
@given(class_lists, st.integers(0, 1000), st.data())
def test_a_smaller_choice_is_part_of_a_larger_one(
    targets: torch.Tensor, seed: int, data: st.DataObject
) -> None:
    larger = data.draw(st.integers(0, len(targets)))
    smaller = data.draw(st.integers(0, larger))
    assert set(split(targets, smaller, seed)[0].tolist()) <= set(
        split(targets, larger, seed)[0].tolist()
    )


def test_a_split_depends_on_the_seed_alone() -> None:
    targets = torch.arange(300) % 3
    torch.manual_seed(1)
    first = balanced_order(targets, 5)
    torch.manual_seed(2)
    assert torch.equal(first, balanced_order(targets, 5))
    assert not torch.equal(first, balanced_order(targets, 6))


@pytest.fixture
def mnist(cache: Path) -> Path:
    raw = cache / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in mnist_files().items():
        (raw / name).write_bytes(content)
    return cache


def greys(data: Dataset, part: str = "train") -> set[int]:
    """Which images a pool holds: every one of these has a grey of its own."""
    pool = getattr(data, part)
    return {
        int(image.max()) for batch in pool.batches([torch.arange(len(pool))]) for image in batch
    }


def test_the_parts_of_a_dataset(mnist: Path) -> None:
    data = open_dataset("mnist")
    assert (len(data.train), len(data.val), len(data.test())) == (180, 20, 50)
    assert data.val.targets.bincount().tolist() == [2] * 10
    assert not greys(data) & greys(data, "val")
    half, limited = open_dataset("mnist", share=0.5), open_dataset("mnist", limit=30)
    assert len(half.train) == 90 and limited.train.targets.bincount().tolist() == [3] * 10
    assert greys(limited) < greys(half) < greys(data)
    assert greys(half, "val") == greys(data, "val")
    assert greys(open_dataset("mnist", seed=1), "val") != greys(data, "val")


def test_the_checksum_is_of_what_is_trained_on(mnist: Path) -> None:
    sums = [
        open_dataset("mnist", **options).checksum
        for options in ({}, {}, {"share": 0.5}, {"seed": 1})
    ]
    assert sums[0] == sums[1] and len(set(sums)) == 3 and len(sums[0]) == 64


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_images": 0}, "limit = 0"),
        ({"max_images": 5}, "10 classes, and each needs an image"),
        ({"share": 0.0}, "share = 0"),
        ({"share": 1.1}, "share = 1.1"),
        ({"share": 0.01}, "too few for 10 classes"),
        ({"val_share": 1.0}, "val_share = 1"),
        ({"val_share": 0.001}, "0 validation images"),
        ({"size": 0}, "size = 0"),
    ],
)
def test_numbers_that_leave_nothing_are_refused(
    mnist: Path, options: dict[str, float], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        open_dataset("mnist", **options)  # type: ignore[arg-type]


def test_another_size_resizes_the_pools(mnist: Path) -> None:
    data = open_dataset("mnist", size=14)
    images = next(data.train.batches([torch.arange(3)]))
    assert data.size == 14 and images.shape == (3, 1, 14, 14)
