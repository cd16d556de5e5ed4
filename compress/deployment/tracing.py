"""Tracing of networks for export, by torch.export, and its errors in one line."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from compress.deployment.description import Description
from compress.deployment.silence import silence
from compress.runtime.errors import UserError, one_line

# Where errors of exporters name an operator.
OPERATOR = re.compile(
    r"(?:target=torch\.ops\.|torch\._ops\.|operations?: |found: )(\w+\.(\w+)[.\w]*)"
)


def trace(
    network: nn.Module, description: Description, batch_size: int | None = None
) -> ExportedProgram:
    """Trace a network, in evaluation mode.

    Args:
        batch_size: images in a batch; any number if left out.

    Raises:
        UserError: its forward pass depends on the values of the images, or on the batch size.
    """
    dtype = torch.uint8 if description.uint8 else torch.float32
    # A free batch size that is one would be taken for a constant.
    images = torch.zeros(batch_size or 2, *description.input_size, dtype=dtype)
    free = None if batch_size else _free_batch(network)
    try:
        with silence(), quiet_exporter(), torch.no_grad():
            return torch.export.export(network, (images,), dynamic_shapes=free, strict=False)
    except Exception as error:  # a network may do anything in its forward pass
        raise UserError(
            f"torch.export cannot trace the network: {_describe_trace(error)}"
        ) from error


def _free_batch(network: nn.Module) -> tuple[Any, ...]:
    """Return the dynamic shapes of a forward pass that takes any number of images."""
    images = {0: Dim("batch", min=1)}
    first = next(iter(inspect.signature(network.forward).parameters.values()))
    return ((images,),) if first.kind is first.VAR_POSITIONAL else (images,)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence what torch's exporters log while they work."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def describe_failure(error: BaseException, program: ExportedProgram) -> str:
    """Describe why a traced network cannot be converted, with the operator and its layer."""
    reason: BaseException | None = error
    while reason is not None:
        if found := OPERATOR.search(str(reason)):
            # Exporters decompose operators into others, whose names are parts of theirs.
            nodes = (node for node in program.graph.nodes if found[2] in str(node.target))
            node = next(nodes, None)
            return f"operator {found[1]}" + (f" in {_layer_of(node)}" if node else "")
        reason = reason.__cause__
    return re.sub(r"\x1b\[[\d;]*m", "", one_line(error))


def _layer_of(node: torch.fx.Node) -> str:
    """Return the path of the layer that a node of a traced network belongs to."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]).removeprefix("L['self'].") if stack else ""
    return f"layer {path!r}" if path else "the network itself"


def _describe_trace(error: BaseException) -> str:
    """Return the first line of an error of torch.export, and the line of code that it names."""
    if "Constraints violated (batch)" in str(error):
        return "its forward pass fixes the number of images, as len(x) does; use x.size(0) instead"
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\n\s+(.+)', str(error))
    if "data-dependent" in first:
        first = "its forward pass depends on the values of the images"
    place = f", at {places[-1][3].strip()!r} in {places[-1][2]}" if places else ""
    return f"{' '.join(first.split())[:160]}{place}"
