"""A weights file, and the files exported from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from compress.deployment.export import ExportResult
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec


@dataclass(frozen=True)
class Exported:
    """A weights file, and the files exported from it."""

    weights: Path
    checkpoint: Checkpoint
    onnx: ExportResult
    pixels: ExportResult


class Bessel(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images)


def own_network(layer: nn.Module, name: str = "odd") -> Checkpoint:
    model = nn.Sequential()
    model.add_module(name, layer)
    model.add_module("head", nn.Sequential(nn.Flatten(), nn.Linear(48, 2)))
    one = (0.5,) * 3
    return Checkpoint(model.eval(), ModelSpec("a:b"), ("a", "b"), (3, 4, 4), one, one, "made up")


def save_foreign(
    path: Path,
    shape: tuple[object, ...] = ("n", 3, 4, 4),
    classes: int = 3,
    dtype: int = TensorProto.FLOAT,
    last: str = "",
    outputs: tuple[str, ...] = ("y",),
) -> Path:
    """Write an ONNX classifier as another program would, whose logits are sums of channels."""
    channels_last = shape[3] in (1, 3)
    axes = [1, 2] if channels_last else [2, 3]
    channels = shape[3] if channels_last else shape[1] if isinstance(shape[1], int) else 3
    weights = np.eye(int(str(channels)), classes, dtype=np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["y" if not last else "l"]),
    ]
    nodes += [helper.make_node(last, ["l"], ["y"], axis=1)] if last else []
    # The most likely class, and logits with sides of 1, as other programs give them.
    nodes += [helper.make_node("ArgMax", ["y"], ["label"], axis=1, keepdims=0)]
    nodes += [helper.make_node("Unsqueeze", ["y", "ends"], ["map"])]
    known = {
        "y": helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], classes]),
        "label": helper.make_tensor_value_info("label", TensorProto.INT64, [shape[0]]),
        "map": helper.make_tensor_value_info("map", TensorProto.FLOAT, [shape[0], classes, 1, 1]),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [known[name] for name in outputs],
        [
            onnx.numpy_helper.from_array(weights, "w"),
            onnx.numpy_helper.from_array(np.array([2, 3]), "ends"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )
    return path
