"""Single layers as ONNX models, to be timed. Does not import torch at import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 18, 10


@dataclass(frozen=True)
class Layer:
    """A convolution, or a linear layer, without its widths.

    Args:
        height, width: of its input; a linear layer has as many rows in `height`.
        kernel, stride, padding, dilation: of a convolution, (height, width); empty if linear.
        groups: of a convolution; 0 if it is depthwise.
    """

    height: int
    width: int = 1
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def key(self, outs: int, ins: int) -> str:
        """Return the layer at `outs` output and `ins` input channels in one line."""
        numbers = (self.kernel, self.stride, self.padding, self.dilation)
        form = " ".join("x".join(map(str, part)) for part in numbers)
        return f"{self.height}x{self.width} {form} g{self.groups} {ins}>{outs}"


def layer_model(layer: Layer, outs: int, ins: int, int8: bool) -> onnx.ModelProto:
    """Return a model of a layer followed by a ReLU, as a runtime fuses them.

    The values of its weights do not matter.

    Args:
        int8: as quantized networks compute it, from integers to integers.
    """
    from onnx import TensorProto, helper, numpy_helper

    shape = (outs, ins // max(layer.groups, 1), *layer.kernel) if layer.kernel else (ins, outs)
    if not layer.groups:
        shape = (outs, 1, *layer.kernel)
    names: list[str] = []
    constants = []

    def constant(array: Any) -> str:
        names.append(f"c{len(names)}")
        constants.append(numpy_helper.from_array(np.asarray(array), names[-1]))
        return names[-1]

    options: dict[str, Any] = {}
    if layer.kernel:
        options = {
            "pads": [*layer.padding, *layer.padding],
            "strides": layer.stride,
            "dilations": layer.dilation,
            "group": layer.groups or outs,
        }
    weights = np.random.default_rng(0).normal(size=shape)
    if int8:
        small = (np.clip(40 * weights, -127, 127)).astype(np.int8)
        scale, zero = constant(np.float32(0.05)), constant(np.uint8(0))
        weight = [
            constant(small),
            constant(np.full(outs, 0.01, np.float32)),
            constant(np.zeros(outs, np.int8)),
        ]
        inputs = ["images", scale, zero, *weight, scale, zero]
        if layer.kernel:
            inputs.append(constant(np.zeros(outs, np.int32)))
        kind = "QLinearConv" if layer.kernel else "QLinearMatMul"
        nodes = [helper.make_node(kind, inputs, ["out"], **options)]
    else:
        inputs = ["images", constant(weights.astype(np.float32)), constant(np.zeros(outs, "f"))]
        kind = "Conv" if layer.kernel else "Gemm"
        nodes = [
            helper.make_node(kind, inputs, ["sum"], **options),
            helper.make_node("Relu", ["sum"], ["out"]),
        ]
    given = [1, ins, layer.height, layer.width] if layer.kernel else [layer.height, ins]
    element = TensorProto.UINT8 if int8 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("images", element, given)],
        [helper.make_tensor_value_info("out", element, None)],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
