"""ExecuTorch's programs, with XNNPACK for the CPUs of phones. Does not import torch at import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.deployment.description import KEY, Description, parse_description
from compress.deployment.formats import ExportFormat, Runner, infer_one_by_one
from compress.deployment.silence import silence
from compress.runtime.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import nn


def write(network: nn.Module, description: Description, path: Path) -> None:
    """Write a network as a program for one image; its method ``compress`` gives its description.

    Raises:
        UserError: ExecuTorch cannot express the network; the message names operator and layer.
    """
    from compress.deployment.tracing import describe_failure, quiet_exporter, trace

    program = trace(network, description, batch_size=1)
    with silence(), quiet_exporter():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            lowered = to_edge_transform_and_lower(
                program,
                partitioner=[XnnpackPartitioner()],
                constant_methods={KEY: description.to_json()},
            )
            content = lowered.to_executorch().buffer
        except OSError:
            # It writes temporary files.
            raise
        except Exception as error:  # of several types, some of them private
            raise UserError(
                f"ExecuTorch cannot express the network: {describe_failure(error, program)}"
            ) from error
    path.write_bytes(content)


def open_file(path: Path, threads: int = 0) -> Runner:
    """Open a program in ExecuTorch.

    Args:
        threads: of all programs in this process; 0 leaves them as they are.

    Raises:
        UserError: it is damaged, or another program wrote it.
    """
    import torch

    # Its libraries report to standard error what they find out about the processor.
    with silence():
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        if threads:
            portable_lib._unsafe_reset_threadpool(threads)
        try:
            program = Runtime.get().load_program(path)
            text = program.load_method(KEY).execute([])[0] if KEY in program.method_names else None
            method = program.load_method("forward")
        except Exception as error:  # of several types
            raise UserError(f"ExecuTorch cannot read it ({one_line(error)})") from error
    description = parse_description(text)

    def infer(image: NDArray[Any]) -> NDArray[np.float32]:
        # A copy, because the method writes its next answer into the same memory.
        logits: NDArray[np.float32] = method.execute([torch.from_numpy(image)])[0].numpy().copy()
        return logits

    size, classes = description.input_size, len(description.classes)
    return Runner(infer_one_by_one(infer), description, size, classes, description.uint8)


FORMAT = ExportFormat(
    name="executorch",
    suffix=".pte",
    extra="executorch",
    packages=("executorch",),
    write=write,
    open=open_file,
)
