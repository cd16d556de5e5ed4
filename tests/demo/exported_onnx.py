"""An ONNX classifier as another program writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper


def save_other(path: Path) -> None:
    """Write a network whose logits are means of channels, with no description."""
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    axes = onnx.numpy_helper.from_array(np.array([2, 3]), "axes")
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=0)
    graph = helper.make_graph([node], "g", [images], [logits], [axes])
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
