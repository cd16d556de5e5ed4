"""Descriptions that tell functions and objects apart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.pipeline.describe_object import describe_object


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().mean()


def test_functions_are_told_apart_by_code_defaults_and_closures() -> None:
    def scaled(by: float) -> Any:
        return lambda s, t: by * (s - t).mean()

    def shifted(by: float) -> Any:
        return lambda s, t: by + (s - t).mean()

    found = [describe_object(f) for f in (scaled(1.0), scaled(2.0), shifted(1.0), mse)]
    assert len(set(found)) == 4 and describe_object(scaled(1.0)) == found[0]


def test_functions_are_told_apart_by_the_functions_inside_them() -> None:
    def doubles() -> Any:
        return lambda values: [value * 2 for value in values]

    def triples() -> Any:
        return lambda values: [value * 3 for value in values]

    assert describe_object(doubles) != describe_object(triples)


def test_values_count_in_tensors_arrays_and_modules() -> None:
    def weighted(weights: Any) -> Any:
        return lambda s, t: (weights, s, t)

    layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
    values = [torch.zeros(2), torch.ones(2), torch.ones(2).bfloat16(), np.zeros(2), np.ones(2)]
    found = [describe_object(weighted(each)) for each in (*values, *layers)]
    assert len(set(found)) == len(found)
    assert describe_object(weighted(torch.ones(2))) == found[1]


def test_imported_modules_and_names_without_a_value_are_no_obstacle() -> None:
    library = math

    def loss(student: float, teacher: float) -> float:
        return library.fabs(student - later * teacher)

    before = describe_object(loss)
    library.tried = True  # type: ignore[attr-defined]
    try:
        assert describe_object(loss) == before
    finally:
        del library.tried  # type: ignore[attr-defined]
    later = 1.0
    assert describe_object(loss) != before
