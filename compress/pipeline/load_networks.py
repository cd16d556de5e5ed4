"""Networks of a training script's file: each complete set of tensors in one of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compress.data.dataset import Dataset
from compress.models.build import build
from compress.models.channels import COLOR, first_convolution, narrow_input
from compress.models.find_tensors import (
    Found,
    describe_content,
    describe_parts,
    describe_shape,
    find_tensors,
    list_names,
)
from compress.models.head import find_last_layer
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError

# Complete sets of tensors in one file, such as raw and averaged weights; the best is taken.
MAX_CANDIDATES = 4


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with one of the sets of tensors in a file, and the prefix that led there."""

    model: nn.Module
    prefix: str


def load_networks(
    content: Any, spec: ModelSpec, data: Dataset, key: str | None, force: bool
) -> list[LoadedNetwork]:
    """Load every complete set of tensors in `content` into a network of its own."""
    classes = len(data.classes)
    size = (COLOR, data.image_size, data.image_size)
    model = build(spec, classes, input_size=size)
    matches = find_tensors(content, model.state_dict(), key)
    grey = bool(matches) and _is_grey(model, matches[0])
    if grey:
        matches = find_tensors(content, narrow_input(model).state_dict(), key)
    if not matches or not matches[0].complete:
        named = f"not a {spec.name} of {classes} classes"
        raise UserError(f"{named}: {_describe_mismatch(content, model, matches, data)}")
    fitting = [found for found in matches if force or not found.extra]
    if not fitting:
        raise UserError(
            f"not a {spec.name}: more tensors lie among its own: {list_names(matches[0].extra)};"
            " name the network that has them, or leave them out by --force"
        )
    loaded = []
    for found in fitting[:MAX_CANDIDATES]:
        _check_values(found)
        own = build(spec, classes, input_size=size)
        own = narrow_input(own) if grey else own
        # Old files have no batch counters.
        own.load_state_dict(own.state_dict() | found.tensors)
        loaded.append(LoadedNetwork(own.eval(), found.prefix))
    return loaded


def _check_values(found: Found) -> None:
    """Refuse tensors without values, and sparse ones, which a network has no use for."""
    for name, tensor in found.tensors.items():
        if tensor.is_meta:
            raise UserError(f"{name} has no values: it was saved from the meta device")
        if tensor.layout != torch.strided:
            raise UserError(f"{name} is sparse; save it by to_dense()")


def _is_grey(model: nn.Module, found: Found) -> bool:
    """Return True if the tensors are the network's, but for one input channel instead of three."""
    path, conv = first_convolution(model)
    name = f"{path}.weight" if path else "weight"
    if conv is None or found.missing or found.misshapen != (name,):
        return False
    grey = (conv.out_channels, 1, *conv.kernel_size)
    return conv.in_channels == 3 and tuple(found.tensors[name].shape) == grey


def _describe_mismatch(content: Any, model: nn.Module, matches: list[Found], data: Dataset) -> str:
    """Say in what the file's tensors differ from the network's, and what the file holds."""
    holds = f"the file holds {describe_content(content)}"
    if not matches:
        return f"none of its tensors is there; {holds}"
    found, own = matches[0], model.state_dict()
    last = find_last_layer(model)[0]
    if not found.missing and all(name.rpartition(".")[0] == last for name in found.misshapen):
        theirs = len(found.tensors[found.misshapen[0]])
        return (
            f"it has {theirs} classes, and {data.name} has {len(data.classes)}:"
            f" {list_names(data.classes, 5)}"
        )
    parts = []
    if found.missing:
        parts.append(f"{len(found.missing)} tensors missing: {list_names(found.missing)}")
    if found.misshapen:
        shapes = [
            f"{name} {describe_shape(found.tensors[name])} instead of {describe_shape(own[name])}"
            for name in found.misshapen
        ]
        parts.append(f"{len(shapes)} of another shape: {list_names(shapes, 2)}")
    if found.extra:
        parts.append(f"{len(found.extra)} unexpected: {list_names(found.extra)}")
        if found.missing and (remedy := describe_parts(found.extra)):
            return f"{'; '.join(parts)}; {remedy}"
    return f"{'; '.join(parts)}; {holds}"
