"""OpenVINO's files: a graph (.xml), and its weights beside it (.bin).

Does not import torch at import.
"""

from __future__ import annotations

import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.deployment.description import KEY, Description, parse_description
from compress.deployment.formats import ExportFormat, Runner
from compress.runtime.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import nn

INPUT, OUTPUT = "images", "logits"

# Computes in float32 on any processor. A pinned thread waits for its core while another program
# has it, which takes four times as long on a busy machine.
CONFIG = {
    "INFERENCE_PRECISION_HINT": "f32",
    "PERFORMANCE_HINT": "LATENCY",
    "ENABLE_CPU_PINNING": False,
}


def import_openvino() -> Any:
    """Import OpenVINO, without its package that reports each use to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@cache
def open_core() -> Any:
    """Return the process's one `openvino.Core`.

    Each core replaces the stack on which the process receives signals. When several go in another
    order than they came, the stack of one that is gone stays in use, and the next signal, such as
    the end of a child process, ends the process.
    """
    return import_openvino().Core()


def write(network: nn.Module, description: Description, path: Path) -> None:
    """Write a network for OpenVINO, with a free batch size.

    Raises:
        UserError: OpenVINO cannot express the network; the message names operator and layer.
    """
    from compress.deployment.tracing import describe_failure, quiet_exporter, trace

    openvino = import_openvino()
    program = trace(network, description)
    try:
        with quiet_exporter():
            model = openvino.convert_model(program)
    except Exception as error:  # of several types, some of them private
        raise UserError(
            f"OpenVINO cannot express the network: {describe_failure(error, program)}"
        ) from error
    # The converter leaves all sides open, and the plan of the network would be slower.
    model.reshape(openvino.PartialShape([-1, *description.input_size]))
    model.inputs[0].tensor.set_names({INPUT})
    model.outputs[0].tensor.set_names({OUTPUT})
    model.set_rt_info(description.to_json(), [KEY])
    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:
        # It says no more than that a stream has failed, in a folder that has just been made.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def open_file(path: Path, threads: int = 0) -> Runner:
    """Open a file in OpenVINO, on the CPU.

    Raises:
        UserError: it is damaged, its weights are missing, or another program wrote it.
    """
    if not path.with_suffix(".bin").is_file():
        raise UserError(f"its weights are missing; {path.stem}.bin belongs beside it")
    try:
        model = open_core().read_model(path)
        text = model.get_rt_info([KEY]).value if model.has_rt_info([KEY]) else None
        config = CONFIG | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
        compiled = open_core().compile_model(model, "CPU", config)
    except Exception as error:  # of several types, some of them private
        raise UserError(f"OpenVINO cannot read it ({one_line(error)})") from error
    description = parse_description(text)
    request = compiled.create_infer_request()

    def infer(images: NDArray[Any]) -> NDArray[np.float32]:
        # A copy, because the request writes its next answer into the same memory.
        logits: NDArray[np.float32] = request.infer([images])[0].copy()
        return logits

    size, classes = description.input_size, len(description.classes)
    return Runner(infer, description, size, classes, description.uint8)


FORMAT = ExportFormat(
    name="openvino",
    suffix=".xml",
    extra="openvino",
    packages=("openvino",),
    write=write,
    open=open_file,
    beside=(".bin",),
)
