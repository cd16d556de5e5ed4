"""DataLoaders as data: the images that their samplers draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from compress.data.in_memory import to_source
from compress.data.source import Pixels
from compress.runtime.errors import UserError

IMAGES = torch.arange(30, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)
DATA = TensorDataset(IMAGES, torch.arange(30) % 3)


def values_of(images: Any) -> list[int]:
    assert isinstance(images, Pixels)
    return sorted(images.pixels[:, 0, 0, 0].tolist())


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": SubsetRandomSampler(range(10, 20))},
        {"sampler": SubsetRandomSampler(torch.randperm(10) + 10)},  # type: ignore[arg-type]
        {"sampler": list(range(10, 20))},
        {"batch_sampler": BatchSampler(SubsetRandomSampler(range(10, 20)), 4, False)},
        {"batch_sampler": [list(range(10, 15)), list(range(15, 20))]},
    ],
)
def test_a_sampler_draws_its_part_of_the_images(options: dict[str, Any]) -> None:
    rest = DataLoader(DATA, 8, sampler=SubsetRandomSampler(range(10)))
    source, _ = to_source((rest, DataLoader(DATA, **options)))
    assert values_of(source.train) == list(range(10))
    assert values_of(source.val) == list(range(10, 20))


@pytest.mark.parametrize("options", [{}, {"shuffle": True}, {"sampler": RandomSampler(DATA)}])
def test_the_usual_samplers_draw_all(options: dict[str, Any]) -> None:
    source, _ = to_source((DataLoader(DATA, 8, **options), DATA))
    assert values_of(source.train) == list(range(30)) and "collate" not in str(source.notes)


def test_images_drawn_several_times_are_refused() -> None:
    weighted = WeightedRandomSampler([1.0] * 30, 60)
    for sampler in (weighted, RandomSampler(DATA, replacement=True, num_samples=99)):
        with pytest.raises(UserError, match=f"val: .*{type(sampler).__name__}.*Subset"):
            to_source((DATA, DataLoader(DATA, 8, sampler=sampler)))


def test_a_function_that_collates_is_not_used_and_a_line_says_so() -> None:
    source, _ = to_source((DataLoader(DATA, 8, collate_fn=lambda items: items), DATA))
    assert any("collate_fn" in note for note in source.notes)
