"""LiteRT's files, once TensorFlow Lite's. Does not import torch at import.

The description lies in a zip archive at the end of a file, where TensorFlow Lite has its metadata;
the runtime reads no further than the network.
"""

from __future__ import annotations

import io
import zipfile
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

MEMBER = f"{KEY}.json"


def write(network: nn.Module, description: Description, path: Path) -> None:
    """Write a network for one image.

    Raises:
        UserError: LiteRT cannot express the network; the message names operator and layer.
    """
    import torch

    from compress.deployment.tracing import describe_failure, quiet_exporter, trace

    program = trace(network, description, batch_size=1)
    dtype = torch.uint8 if description.uint8 else torch.float32
    with silence(), quiet_exporter():
        import litert_torch

        try:
            images = torch.zeros(1, *description.input_size, dtype=dtype)
            content = io.BytesIO(litert_torch.convert(network, (images,)).model_content())
        except OSError:
            # It writes temporary files.
            raise
        except Exception as error:  # of several types, some of them private
            raise UserError(
                f"LiteRT cannot express the network: {describe_failure(error, program)}"
            ) from error
    with zipfile.ZipFile(content, "a") as archive:
        archive.writestr(MEMBER, description.to_json())
    path.write_bytes(content.getvalue())


def open_file(path: Path, threads: int = 0) -> Runner:
    """Open a file in LiteRT, on the CPU.

    Raises:
        UserError: it is damaged, or another program wrote it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(MEMBER).decode()
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(
            "has no description; only files that `compress export` wrote are used"
        ) from error
    description = parse_description(text)
    # The runtime reports to standard error which of its parts it takes.
    with silence():
        from ai_edge_litert.interpreter import Interpreter

        try:
            runtime = Interpreter(model_path=str(path), num_threads=threads or None)
            runtime.allocate_tensors()
            source = runtime.get_input_details()[0]["index"]
            target = runtime.get_output_details()[0]["index"]
        except Exception as error:  # of several types
            raise UserError(f"LiteRT cannot read it ({one_line(error)})") from error

    def infer(image: NDArray[Any]) -> NDArray[np.float32]:
        runtime.set_tensor(source, image)
        runtime.invoke()
        logits: NDArray[np.float32] = runtime.get_tensor(target)
        return logits

    size, classes = description.input_size, len(description.classes)
    return Runner(infer_one_by_one(infer), description, size, classes, description.uint8)


FORMAT = ExportFormat(
    name="litert",
    suffix=".tflite",
    extra="litert",
    packages=("litert_torch", "ai_edge_litert"),
    write=write,
    open=open_file,
)
