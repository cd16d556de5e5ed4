"""Archives of torch.export, run by torch itself. Does not import torch at import."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.deployment.description import KEY, Description, parse_description
from compress.deployment.formats import ExportFormat, Runner
from compress.deployment.pt2_archive import read_archive
from compress.runtime.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


def write(network: nn.Module, description: Description, path: Path) -> None:
    """Write a network as torch.export traces it, with a free batch size.

    Raises:
        UserError: torch.export cannot trace the network.
    """
    import torch

    from compress.deployment.tracing import quiet_exporter, trace

    program = _slim(trace(network, description))
    content = io.BytesIO()
    with quiet_exporter():
        torch.export.save(program, content, extra_files={KEY: description.to_json()})
    path.write_bytes(content.getvalue())


def _slim(program: ExportedProgram) -> ExportedProgram:
    """Remove what only says how a program was traced, as lines of source code, in place."""
    import torch

    # They would be pickled.
    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in ("stack_trace", "nn_module_stack", "torch_fn", "from_node", "custom"):
                    node.meta.pop(key, None)
    return program


def open_file(path: Path, threads: int = 0) -> Runner:
    """Open an archive in torch, which runs no code from it.

    Args:
        threads: of all of torch in this process; 0 leaves it as it is.

    Raises:
        UserError: it is damaged, has parts that could run code, or another program wrote it.
    """
    import torch

    from compress.deployment.tracing import quiet_exporter

    content, text = read_archive(path)
    description = parse_description(text)
    if threads:
        torch.set_num_threads(threads)
    try:
        with quiet_exporter():
            module = torch.export.load(io.BytesIO(content)).module()
    except Exception as error:  # a damaged file may cause any error
        raise UserError(f"torch cannot read it ({one_line(error)})") from error

    def infer(images: NDArray[Any]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = module(torch.from_numpy(images)).numpy()
            return logits

    size, classes = description.input_size, len(description.classes)
    return Runner(infer, description, size, classes, description.uint8)


FORMAT = ExportFormat(
    name="pt2",
    suffix=".pt2",
    extra="",
    packages=("torch",),
    write=write,
    open=open_file,
)
