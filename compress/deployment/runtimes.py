"""Runtimes in which time is a budget: how each runs a network, and a single layer of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from compress.deployment.description import Description
from compress.deployment.formats import get_format
from compress.deployment.layer_graph import Layer, layer_model
from compress.deployment.onnx_format import open_session, to_onnx
from compress.deployment.openvino_format import CONFIG, open_core
from compress.models.fuse_bn import fuse_conv_bn
from compress.models.memory_format import to_channels_last

if TYPE_CHECKING:
    import onnx

# Computes one image.
Call = Callable[[], object]


@dataclass(frozen=True)
class Runtime:
    """A runtime on the CPU.

    Args:
        name: its name in recipes.
        packages: those whose versions decide how fast it is.
        open_network: returns a call that runs a network for one image of size (C, H, W), on a
            number of threads.
        open_layer: the same for a layer with `outs` output and `ins` input channels.
        check: raises a UserError if a package is missing.
    """

    name: str
    packages: tuple[str, ...]
    open_network: Callable[[nn.Module, tuple[int, int, int], int], Call]
    open_layer: Callable[[Layer, int, int, int], Call]
    check: Callable[[], object] = lambda: None


def _open_onnx(model: onnx.ModelProto, threads: int) -> Call:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        session = open_session(path, threads)
    given = session.get_inputs()[0]
    shape = [side if isinstance(side, int) else 1 for side in given.shape]
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    images = values if given.type == "tensor(float)" else (64 * np.abs(values)).astype(np.uint8)
    feed = {given.name: images}
    return lambda: session.run(None, feed)


def _to_onnx(network: nn.Module, size: tuple[int, int, int]) -> onnx.ModelProto:
    ready = fuse_conv_bn(network).cpu().to(memory_format=torch.contiguous_format)
    nothing, all_ones = (0.0,) * size[0], (1.0,) * size[0]
    about = Description(classes=("class",), input_size=size, mean=nothing, std=all_ones)  # type: ignore[arg-type]
    return to_onnx(ready.requires_grad_(False), about)


def _open_float(network: nn.Module, size: tuple[int, int, int], threads: int) -> Call:
    return _open_onnx(_to_onnx(network, size), threads)


def _open_int8(network: nn.Module, size: tuple[int, int, int], threads: int) -> Call:
    from compress.quantization.static import quantize_static

    # The ranges of activations make no difference to the time.
    return _open_onnx(quantize_static(_to_onnx(network, size), {}), threads)


def _open_openvino(model: onnx.ModelProto, threads: int) -> Call:
    core = open_core()
    read = core.read_model(model.SerializeToString())
    sides = read.inputs[0].partial_shape
    read.reshape([side.get_length() if side.is_static else 1 for side in sides])
    compiled = core.compile_model(read, "CPU", CONFIG | {"INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()
    images = np.random.default_rng(0).normal(size=tuple(compiled.inputs[0].shape))
    given = [images.astype(np.float32)]
    return lambda: request.infer(given)


def _open_torch(network: nn.Module, size: tuple[int, int, int], threads: int) -> Call:
    ready = to_channels_last(fuse_conv_bn(network).cpu().requires_grad_(False))
    images = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    return lambda: ready(images)


def _open_torch_layer(layer: Layer, outs: int, ins: int, threads: int) -> Call:
    if not layer.kernel:
        linear = nn.Linear(ins, outs).requires_grad_(False)
        rows = torch.zeros(layer.height, ins)
        return lambda: linear(rows).relu_()
    conv = nn.Conv2d(
        ins,
        outs,
        layer.kernel,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        layer.dilation,  # type: ignore[arg-type]
        layer.groups or outs,
    )
    ready = to_channels_last(conv.requires_grad_(False))
    images = torch.zeros(1, ins, layer.height, layer.width)
    images = images.to(memory_format=torch.channels_last)
    return lambda: ready(images).relu_()


def _onnx_runtime(name: str, int8: bool) -> Runtime:
    return Runtime(
        name,
        ("onnxruntime",),
        _open_int8 if int8 else _open_float,
        lambda layer, outs, ins, threads: _open_onnx(
            layer_model(layer, outs, ins, int8=int8), threads
        ),
        lambda: get_format("onnx"),
    )


def _check_openvino() -> None:
    for name in ("onnx", "openvino"):
        get_format(name)


ONNX = _onnx_runtime("onnx", int8=False)
ONNX_INT8 = _onnx_runtime("onnx-int8", int8=True)
OPENVINO = Runtime(
    "openvino",
    ("openvino",),
    lambda network, size, threads: _open_openvino(_to_onnx(network, size), threads),
    lambda layer, outs, ins, threads: _open_openvino(
        layer_model(layer, outs, ins, int8=False), threads
    ),
    _check_openvino,
)
TORCH = Runtime("torch", ("torch",), _open_torch, _open_torch_layer)
