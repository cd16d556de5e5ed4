"""The widths of a run's layers, before and after each cut, as its weights files hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from compress.models.tensor_file import read_tensors
from compress.pipeline.manifest import StageResult
from compress.runtime.errors import UserError


@dataclass(frozen=True)
class LayerWidths:
    """The output channels of a layer.

    Args:
        name: of the layer.
        widths: before the first cut, and after each.
        params: of the layer after the last cut.
    """

    name: str
    widths: tuple[int, ...]
    params: int


def read_widths(path: Path, results: Sequence[StageResult]) -> tuple[list[str], list[LayerWidths]]:
    """Return the stages whose networks are compared, and the widths of every layer in them.

    The widths are those of tensors, so no network is built. Nothing is returned for a run that
    makes no cut, or leaves all widths as they were.

    Raises:
        UserError: a weights file is missing or damaged.
    """
    cuts = [number for number, result in enumerate(results) if result.kind == "prune" and number]
    if not cuts:
        return [], []
    stages = [results[cuts[0] - 1], *(results[number] for number in cuts)]
    tables = [read_layers(path / stage.checkpoint) for stage in stages]
    layers = [
        LayerWidths(
            name,
            tuple(table.get(name, (0, 0))[0] for table in tables),
            tables[-1].get(name, (0, 0))[1],
        )
        for name in tables[0]
    ]
    if all(len(set(layer.widths)) == 1 for layer in layers):
        return [], []
    return [stage.name for stage in stages], layers


def read_layers(file: Path) -> dict[str, tuple[int, int]]:
    """Return the output channels and the parameters of each layer that has a matrix of weights."""
    content = read_tensors(file)
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        raise UserError(f"{file}: not a weights file of compress")
    tensors = {str(key): each for key, each in state.items() if isinstance(each, Tensor)}
    layers: dict[str, tuple[int, int]] = {}
    for key, tensor in tensors.items():
        name = key.rpartition(".")[0]
        if key.endswith("weight") and tensor.dim() > 1:
            bias = tensors.get(f"{name}.bias")
            params = tensor.numel() + (0 if bias is None else bias.numel())
            layers[name] = (tensor.shape[0], params)
    return layers
