"""A method and an importance in place of those of all stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from compress.data.dataset import Dataset
from compress.data.source import Pixels
from compress.pipeline.fit_to_data import fit_to_data
from compress.pipeline.in_hand import Given, to_recipe
from compress.recipe.in_memory import holding
from compress.recipe.schema import Recipe
from compress.recipe.stages import Prune, Train
from compress.runtime.errors import UserError


def loss(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().mean()


def score(group: Any) -> Tensor:
    return torch.ones(1)


def fit(images: int, trained: tuple[str, ...] = (), **keys: Any) -> Recipe:
    """Return the recipe `default` with `keys`, fitted to so many images."""
    pixels = Pixels(torch.zeros(1, 1, 28, 28).expand(images, -1, -1, -1), torch.arange(images) % 2)
    data = Dataset("mine", ("a", "b"), 28, pixels, pixels, lambda: pixels)
    with holding():
        recipe, _ = to_recipe("default", keys, Given())
        return fit_to_data(recipe, data, trained)[0]


@pytest.mark.parametrize("images", [1_350, 54_000])
@pytest.mark.parametrize("trained", [(), ("teacher",), ("teacher", "student")])
def test_all_stages_use_them_however_few_images_there_are(
    images: int, trained: tuple[str, ...]
) -> None:
    stages = fit(images, trained, method=loss, importance=score).stages
    methods = {s.method for s in stages if isinstance(s, Train) and s.kind != "teach"}
    importances = {s.importance for s in stages if isinstance(s, Prune)}
    assert len(methods) == len(importances) == 1
    assert "loss" in methods.pop() and "score" in importances.pop()
    assert any(stage.kind == "teach" for stage in stages)


def test_the_stages_for_few_images_need_no_teacher_for_labels() -> None:
    assert fit(1_350, method="labels").stages == fit(1_350).stages
    assert fit(1_350, importance="taylor").stages == fit(1_350).stages


def test_stages_that_have_no_use_for_a_method_are_refused() -> None:
    small = {"taught": "small"}
    with pytest.raises(UserError, match=r"method 'dkd': .*'small'") as refused:
        fit(1_350, method="dkd", small_data=small)
    assert len(str(refused.value).splitlines()) == 1
