"""Static quantization of ONNX models to int8, by onnxruntime. Does not import torch.

Weights are signed and scaled per channel, activations unsigned and scaled per tensor. Unsigned,
because the zero of an unsigned activation may be its lowest value: a ReLU is then part of the
rounding, and convolution, ReLU and addition run on integers as one. With signed activations each
ReLU stays a layer of its own in float32, between two conversions, and the network is slower than
it was before.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import platform
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.quantization.ranges import Ranges

if TYPE_CHECKING:
    import onnx

# The element type float32, in ONNX's numbering.
FLOAT = 1

# Operators that begin a network; before them, pixels are only normalized.
FIRST_LAYERS = ("Conv", "Gemm", "MatMul")


def quantize_static(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """Return a float32 model quantized to int8, in the form of QuantizeLinear/DequantizeLinear.

    Args:
        model: takes images (B, C, H, W), with a free batch size.
        ranges: of its activations; one that is missing gets that of an empty image.
    """
    import onnx
    from onnxruntime import quantization

    model = copy.deepcopy(model)
    for number, node in enumerate(model.graph.node):
        # The quantizer finds nodes by name.
        node.name = f"n{number}"
    overrides = {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        for name, (low, high) in ranges.items()
    }
    with TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantization.quantize_static(
            source,
            target,
            _EmptyImage(model.graph.input[0]),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not multiplies_unsigned_exactly(),
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=_preprocessing(model),
            extra_options={"TensorQuantOverrides": overrides},
        )
        return onnx.load(target)


def multiplies_unsigned_exactly(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return True if this CPU adds products of unsigned and signed bytes without saturation.

    Of x86 processors only those with VNNI do. Others need weights of 7 bits.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return True
    try:
        flags = cpuinfo.read_text().split()
    except OSError:
        # Not Linux: the processors of the last years have it.
        return True
    return "avx512_vnni" in flags or "avx_vnni" in flags


class _EmptyImage:
    """One black image, in the form in which onnxruntime asks for calibration images."""

    def __init__(self, given: onnx.ValueInfoProto) -> None:
        kind = given.type.tensor_type
        shape = [1, *(dimension.dim_value for dimension in kind.shape.dim[1:])]
        dtype = np.float32 if kind.elem_type == FLOAT else np.uint8
        self.batches = iter([{given.name: np.zeros(shape, dtype)}])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.batches, None)


def _preprocessing(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that normalize pixels; they stay in float32."""
    if model.graph.input[0].type.tensor_type.elem_type == FLOAT:
        return []
    before: list[str] = []
    for node in model.graph.node:
        if node.op_type in FIRST_LAYERS:
            break
        before.append(node.name)
    return before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the prints and warnings of onnxruntime's quantizer."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
