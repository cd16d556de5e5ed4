"""ONNX files: written by torch's exporter, run by onnxruntime. Does not import torch at import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.deployment.description import KEY, Description, parse_description
from compress.deployment.formats import ExportFormat, Infer, Runner
from compress.runtime.errors import UserError, one_line

if TYPE_CHECKING:
    import onnx
    from torch import nn

# The operator set of the files: the oldest that torch's exporter writes by itself, which most
# runtimes read.
OPSET = 18

INPUT, OUTPUT = "images", "logits"

# Element types of images, in the words of onnxruntime.
TYPES = {
    "tensor(float)": np.float32,
    "tensor(uint8)": np.uint8,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}


def write(network: nn.Module, description: Description, path: Path) -> None:
    """Write a network as ONNX, with a free batch size and the description in its metadata.

    Raises:
        UserError: torch cannot express the network in ONNX; the message names operator and layer.
    """
    import onnx

    model = slim(to_onnx(network, description))
    set_description(model, description)
    onnx.save(model, path)


def to_onnx(network: nn.Module, description: Description) -> onnx.ModelProto:
    """Convert a network to ONNX.

    Raises:
        UserError: as `write`.
    """
    import torch

    from compress.deployment.tracing import describe_failure, quiet_exporter, trace

    program = trace(network, description)
    try:
        with quiet_exporter():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps errors of any type
        raise UserError(
            f"ONNX cannot express the network: {describe_failure(error, program)}"
        ) from error
    assert exported is not None
    model: onnx.ModelProto = exported.model_proto
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return model


def slim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what no runtime reads, in place, and give values short names.

    Stack traces of the exporter alone are as large as a small network.
    """
    graph = model.graph
    names: dict[str, str] = {value.name: value.name for value in [*graph.input, *graph.output]}
    names[""] = ""

    def shorten(name: str) -> str:
        return names.setdefault(name, f"v{len(names)}")

    for node in graph.node:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        node.input[:] = [shorten(name) for name in node.input]
        node.output[:] = [shorten(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name, tensor.doc_string = shorten(tensor.name), ""
        del tensor.metadata_props[:]
    for value in [*graph.input, *graph.output]:
        del value.metadata_props[:]
    for repeated in (graph.value_info, graph.metadata_props, graph.quantization_annotation):
        del repeated[:]
    graph.name, graph.doc_string = "network", ""
    del model.metadata_props[:]
    return model


def set_description(model: onnx.ModelProto, description: Description) -> None:
    """Put the description into the metadata of `model`, in place."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: description.to_json()})


def open_file(path: Path, threads: int = 0) -> Runner:
    """Open an ONNX file in onnxruntime; one of another program too, if it classifies images.

    Raises:
        UserError: the file is damaged, or does not take images and give classes.
    """
    session = open_session(path, threads)
    metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    inputs, outputs = session.get_inputs(), session.get_outputs()
    description = parse_description(metadata[KEY]) if KEY in metadata else None
    takes = f"it takes {', '.join(f'{i.name} {i.shape} {i.type}' for i in inputs)}"
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in TYPES:
        raise UserError(f"not a classifier of images: {takes}")
    sides = [side if isinstance(side, int) else 0 for side in inputs[0].shape]
    last = sides[1] not in (1, 3) and sides[3] in (1, 3)
    size = (sides[3], sides[1], sides[2]) if last else (sides[1] or 3, sides[2], sides[3])
    pixels = description is not None and description.labels == "pixels"
    output = next((each for each in outputs if pixels or _may_be_logits(each)), None)
    if size[0] not in (1, 3) or output is None:
        gives = f"gives {', '.join(f'{o.name} {o.shape} {o.type}' for o in outputs)}"
        raise UserError(f"not a classifier of images: {takes} and {gives}")
    infer = _make_infer(session, output.name, sides[0], last, pixels)
    classes = output.shape[1] if isinstance(output.shape[1], int) else 0
    return Runner(infer, description, size, classes, inputs[0].type == "tensor(uint8)")


def _may_be_logits(output: Any) -> bool:
    """Return True for numbers of a shape (batch, classes), which sides of 1 may follow."""
    shape, kinds = output.shape, ("tensor(float)", "tensor(float16)", "tensor(double)")
    return output.type in kinds and len(shape) >= 2 and all(side == 1 for side in shape[2:])


def open_session(path: Path, threads: int = 0) -> Any:
    """Open an onnxruntime session on the CPU.

    Raises:
        UserError: the file is missing or damaged.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Warnings are about this machine, not about the file.
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a dozen types of onnxruntime
        raise UserError(f"onnxruntime cannot read it ({one_line(error)})") from error


def _make_infer(
    session: Any, output: str, batch_size: int, channels_last: bool, pixels: bool = False
) -> Infer:
    """Return a function from images (B, C, H, W) to logits (B, classes).

    Args:
        output: name of the logits.
        batch_size: the only one that the file takes; 0 if it takes any.
        channels_last: the file takes (B, H, W, C).
        pixels: the logits are those of pixels, (B, classes, H, W).
    """
    given = session.get_inputs()[0]
    dtype = TYPES[given.type]

    def run(images: NDArray[Any]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run([output], {given.name: images})[0]
        return logits if pixels or logits.ndim == 2 else logits.reshape(logits.shape[:2])

    def infer(images: NDArray[Any]) -> NDArray[np.float32]:
        if channels_last:
            images = images.transpose(0, 2, 3, 1)
        images = np.ascontiguousarray(images, dtype)
        if not batch_size:
            return run(images)
        chunks = []
        for start in range(0, len(images), batch_size):
            chunk = images[start : start + batch_size]
            missing = batch_size - len(chunk)
            padded = np.concatenate([chunk, np.repeat(chunk[-1:], missing, axis=0)])
            chunks.append(run(padded)[: len(chunk)])
        return np.concatenate(chunks)

    return infer


FORMAT = ExportFormat(
    name="onnx",
    suffix=".onnx",
    extra="onnx",
    packages=("onnx", "onnxscript", "onnxruntime"),
    write=write,
    open=open_file,
)
