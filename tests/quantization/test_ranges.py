"""Ranges of activations: what each kind contains, whatever the size of batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compress.quantization import ranges as module
from compress.quantization.ranges import measure_ranges


def model() -> onnx.ModelProto:
    """Relu of the images, and their sum with it."""
    sides: list[Any] = ["batch", 3, 4, 4]
    nodes = [
        helper.make_node("Relu", ["images"], ["positive"]),
        helper.make_node("Add", ["images", "positive"], ["sum"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "network",
        [value("images", TensorProto.FLOAT, sides)],
        [value("sum", TensorProto.FLOAT, sides)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def images(outlier: float) -> NDArray[np.float32]:
    drawn = np.random.default_rng(0).uniform(-1, 2, (64, 3, 4, 4)).astype(np.float32)
    drawn[5, 0, 0, 0] = outlier
    return drawn


def test_kinds_differ_by_what_they_clip() -> None:
    taken = images(100.0)
    found = measure_ranges(model(), taken)
    assert set(found["extremes"]) == {"images", "positive", "sum"}
    assert found["extremes"]["positive"] == (0.0, 100.0)
    assert found["extremes"]["images"] == pytest.approx((float(taken.min()), 100.0))
    # One of four groups of 16 images has the large value.
    assert found["average"]["sum"][1] == pytest.approx(200 / 4 + 4 * 3 / 4, rel=0.02)
    assert found["99.99 %"]["sum"][1] <= found["99.999 %"]["sum"][1] <= 200
    assert all(low <= 0 <= high for each in found.values() for low, high in each.values())


@pytest.mark.parametrize("held", [1, 3 * 3 * 16 * 5, 10**6])
def test_size_of_batches_does_not_matter(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = measure_ranges(model(), images(7.0))
    monkeypatch.setattr(module, "HELD_VALUES", held)
    assert measure_ranges(model(), images(7.0)) == expected


def test_model_is_left_as_it_is() -> None:
    measured = model()
    measure_ranges(measured, images(1.0))
    assert measured == model()
