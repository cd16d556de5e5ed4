"""Weights files: save a network of any widths, and load it without running code from the file.

A pruned network no longer fits the class that it came from, so its ``state_dict`` alone cannot be
loaded. A weights file therefore also holds the model specification, the widths of the pruned layers
and the blocks that were removed. To load it, the network is built by name, blocks are taken out of
it, its layers are narrowed, and the tensors are set.
The result is a plain module with contiguous tensors.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.models.build import skeleton
from compress.models.file_content import FORMAT, VERSION, Labels, check_bytes, validate_content
from compress.models.layers import (
    contiguous_copy,
    layer_widths,
    pruned_widths,
    remove_blocks,
    removed_blocks,
    set_tensors,
    set_widths,
)
from compress.models.memory_format import note_format
from compress.models.plain_module import hold_copy
from compress.models.tensor_file import read_tensors, save_tensors, write_tensors
from compress.models.timm_networks import known_architecture, remember_architecture
from compress.recipe.color import parse_color
from compress.recipe.in_memory import MEMORY, is_in_memory
from compress.recipe.load import validate_table
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError, one_line
from compress.runtime.text import normalize_name

# Key of a network on the Hugging Face Hub, in its specification: what it is built of.
ARCHITECTURE = "architecture"


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and everything needed to use it.

    Args:
        model: normalized images (B, C, H, W) to logits (B, classes); (B, classes, H, W) if it
            labels pixels.
        network: the specification that the model was built from.
        classes: names of the classes, in the order of the logits.
        input_size: (C, H, W); C is 3, or 1 for a network of grey images.
        mean, std: by channel, for pixels scaled to 0..1.
        data: name of the data set that the model was trained on.
        origin: where the model comes from: recipe, device, package versions, checksum of the data,
            results of the stages.
        sparse: True if single weights were pruned; zero weights then do not count as parameters.
        crop_ratio: part of an image that the model sees: its shorter side is resized to H, or W,
            divided by this, and the centre is cropped.
        background: colour behind transparent parts of images, ``#rrggbb`` or a name.
        temperature: probabilities are of the logits divided by it; see `compress.calibrate`.
        labels: what has a class: ``images``, or ``pixels``.
    """

    model: nn.Module
    network: ModelSpec
    classes: tuple[str, ...]
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    data: str
    origin: dict[str, Any] = field(default_factory=dict)
    sparse: bool = False
    crop_ratio: float = 1.0
    background: str = "#ffffff"
    temperature: float = 1.0
    labels: Labels = "images"

    def __post_init__(self) -> None:
        # Files of earlier releases may have the other spelling of accents.
        object.__setattr__(self, "classes", tuple(map(normalize_name, self.classes)))

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Shape of the logits of one image: (classes,) or (classes, H, W)."""
        return (len(self.classes), *(self.input_size[1:] if self.labels == "pixels" else ()))


def save(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write a weights file, completely or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    write_tensors(to_dict(checkpoint), path)


def load(
    path: str | Path,
    builder: Callable[..., nn.Module] | None = None,
    *,
    model: nn.Module | None = None,
) -> Checkpoint:
    """Load a weights file. No code from the file is executed.

    Args:
        path: file that `save` wrote.
        builder: function that builds the network, for a file with a ``custom`` network. No
            function is imported just because a file names it.
        model: a module of the same architecture before any cut, in place of `builder`: a copy of it
            gets the file's widths and tensors.

    Returns:
        The checkpoint; its model is on the CPU, in evaluation mode.

    Raises:
        UserError: anything is wrong with the file; one line that names it.

    Example:
        >>> compress.load("weights/fashion-mnist-100k.pth").model(torch.zeros(1, 3, 28, 28)).shape
        torch.Size([1, 10])
    """
    content = read_tensors(path)
    if model is not None and builder is None:
        builder = _copier(model)
    try:
        return from_dict(content, builder)
    except UserError as error:
        raise UserError(f"{path}: {one_line(error)}") from error
    except Exception as error:  # a manipulated file may cause any error
        raise UserError(f"{path}: its parts do not fit together ({one_line(error)})") from error


def _copier(model: nn.Module) -> Callable[..., nn.Module]:
    def build_copy(num_classes: int) -> nn.Module:
        # `skeleton` builds on the meta device, where a copy would lose its values.
        with torch.device("cpu"):
            return hold_copy(model)

    return build_copy


def to_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return `checkpoint` as plain data and contiguous tensors on the CPU, for `from_dict`."""
    spec = {key: value for key, value in asdict(checkpoint.network).items() if key != "weights"}
    if architecture := known_architecture(checkpoint.network.name):
        spec[ARCHITECTURE] = architecture
    tensors = checkpoint.model.state_dict()
    # Earlier releases read files that are not calibrated, classify images and have all blocks.
    added: dict[str, Any] = {}
    if checkpoint.temperature != 1:
        added["temperature"] = float(checkpoint.temperature)
    if checkpoint.labels != "images":
        added["labels"] = checkpoint.labels
    if removed := removed_blocks(checkpoint.model):
        added["removed"] = removed
    return {
        "format": FORMAT,
        "version": VERSION,
        "network": spec,
        "widths": pruned_widths(checkpoint.model, checkpoint.network, len(checkpoint.classes)),
        "state_dict": {key: contiguous_copy(tensor) for key, tensor in tensors.items()},
        "classes": list(checkpoint.classes),
        "input_size": list(checkpoint.input_size),
        "mean": [float(value) for value in checkpoint.mean],
        "std": [float(value) for value in checkpoint.std],
        "data": checkpoint.data,
        "origin": checkpoint.origin,
        "sparse": checkpoint.sparse,
        "crop_ratio": float(checkpoint.crop_ratio),
        "background": parse_color(checkpoint.background),
    } | added


def from_dict(plain: Any, builder: Callable[..., nn.Module] | None = None) -> Checkpoint:
    """Rebuild a checkpoint from the plain data of `to_dict`.

    Args:
        builder: as for `load`.

    Raises:
        UserError: the data is not that of a checkpoint.
        Exception: of any other type, if the parts of the data do not fit together.
    """
    content = validate_content(plain)
    if "weights" in content.network:
        raise UserError("network: weights: unknown key")
    network = dict(content.network)
    architecture = network.pop(ARCHITECTURE, None)
    spec = validate_table(ModelSpec, network, "network")
    if isinstance(architecture, dict):
        # The Hub need not be asked for it.
        remember_architecture(spec.name, architecture.get("name"), architecture.get("options"))
    if spec.source == "custom" and builder is None:
        if is_in_memory(spec.name):
            raise UserError(
                f"network {spec.name.removeprefix(MEMORY)!r} was a module in memory: pass one of"
                " the same architecture, compress.load(FILE, model=…), or the function that builds"
                " it, --builder package.module:function"
            )
        raise UserError(
            f"network {spec.name!r} is custom: pass the function that builds it,"
            f" --builder {spec.name}"
        )
    channels, height, width = content.input_size
    model = skeleton(spec, len(content.classes), builder, (channels, height, width))
    remove_blocks(model, content.removed)
    set_widths(model, content.widths)
    check_bytes(content.state_dict)
    set_tensors(model, content.state_dict)
    # Not in inference mode: tensors that the network keeps of its first call are trained with.
    with torch.no_grad():
        logits = model.eval()(torch.zeros(1, *content.input_size))
    if spec.source != "torchvision":
        note_format(model, (channels, height, width))
    found = Checkpoint(
        model=model,
        network=spec,
        classes=tuple(content.classes),
        input_size=(channels, height, width),
        mean=tuple(content.mean),
        std=tuple(content.std),
        data=content.data,
        origin=content.origin,
        sparse=content.sparse,
        crop_ratio=content.crop_ratio,
        background=content.background,
        temperature=content.temperature,
        labels=content.labels,
    )
    if logits.shape != (1, *found.logits_shape) or not bool(torch.isfinite(logits).all()):
        each = " for each pixel" if found.labels == "pixels" else ""
        raise UserError(f"the network does not output {len(content.classes)} finite logits{each}")
    return found


def require_classifier(checkpoint: Checkpoint, what: str) -> None:
    """Check that a network classifies images.

    Args:
        what: what needs it, for the message.

    Raises:
        UserError: it labels pixels.
    """
    if checkpoint.labels != "images":
        raise UserError(f"{what} needs a network that classifies images; this one labels pixels")


def read_seed(origin: dict[str, Any]) -> int | None:
    """Return the seed of a network's training, which chose its validation images, if it is known.

    Args:
        origin: of a weights file, or of an exported file.
    """
    recipe = origin.get("recipe")
    seed = recipe.get("seed") if isinstance(recipe, dict) else origin.get("seed")
    return seed if type(seed) is int else None


def measure_file_bytes(checkpoint: Checkpoint) -> int:
    """Return the size of the weights file of `checkpoint`, in bytes."""
    return _count_bytes(to_dict(checkpoint))


def bound_overhead_bytes(checkpoint: Checkpoint) -> int:
    """Return the most bytes that the weights file needs beside its tensors, at any widths."""
    tensors = checkpoint.model.state_dict().values()
    widths = {path: layer_widths(module) for path, module in checkpoint.model.named_modules()}
    # Every tensor in the file begins at a multiple of 64 bytes, and strings may be repeated.
    padding = 64 * len(tensors) + 2048
    total = _count_bytes(to_dict(checkpoint) | {"widths": widths})
    return total - sum(int(tensor.nbytes) for tensor in tensors) + padding


def _count_bytes(data: dict[str, Any]) -> int:
    file = io.BytesIO()
    save_tensors(data, file)
    return len(file.getbuffer())
