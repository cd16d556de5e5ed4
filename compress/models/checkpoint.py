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
from typing import Annotated, Any, Literal

import pydantic.dataclasses
import torch
from pydantic import AfterValidator, ConfigDict, Field
from torch import nn

from compress.models.build import skeleton
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
from compress.recipe.messages import describe_first_error
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError, one_line

# Version 2 had neither crop_ratio nor background: whole images were seen, on black.
FORMAT, VERSION, READ_VERSIONS = "compress.weights", 3, (2, 3)
# Key of a network on the Hugging Face Hub, in its specification: what it is built of.
ARCHITECTURE = "architecture"
VERSION_2 = {"crop_ratio": 1.0, "background": "#000000"}


# What a network names the class of.
Labels = Literal["images", "pixels"]


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

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Shape of the logits of one image: (classes,) or (classes, H, W)."""
        return (len(self.classes), *(self.input_size[1:] if self.labels == "pixels" else ()))


def _check_distinct(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise ValueError("must be distinct")
    return values


def _check_channels(size: list[int]) -> list[int]:
    if size[0] not in (1, 3):
        raise ValueError("must have three channels, or one")
    return size


Triple = Field(min_length=3, max_length=3)
ByChannel = Field(min_length=1, max_length=3)
Classes = Field(min_length=1, max_length=100_000)
Side = Annotated[int, Field(ge=1, le=1024)]


@pydantic.dataclasses.dataclass(
    frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
)
class _Content:
    """The content of a weights file, after ``format`` and ``version``."""

    network: dict[str, Any]
    widths: dict[str, dict[str, Any]]
    state_dict: dict[str, Any]
    classes: Annotated[list[str], Classes, AfterValidator(_check_distinct)]
    input_size: Annotated[list[Side], Triple, AfterValidator(_check_channels)]
    mean: Annotated[list[float], ByChannel]
    std: Annotated[list[Annotated[float, Field(gt=0)]], ByChannel]
    data: str
    origin: dict[str, Any]
    sparse: bool
    crop_ratio: Annotated[float, Field(ge=0.1, le=1)]
    background: Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    labels: Labels = "images"
    removed: list[str] = field(default_factory=list)


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
    content = _validate_content(plain)
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
    _check_bytes(content.state_dict)
    set_tensors(model, content.state_dict)
    with torch.inference_mode():
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


def _validate_content(plain: Any) -> _Content:
    """Check the types and ranges of everything that does not depend on the network."""
    known = plain.get("format") if isinstance(plain, dict) else None
    if not isinstance(known, str) or known != FORMAT:
        raise UserError("not a weights file of compress; make one of it by `compress adopt`")
    version = plain.get("version")
    if type(version) is not int or version not in READ_VERSIONS:
        readable = " and ".join(map(str, READ_VERSIONS))
        raise UserError(f"weights file version {version!r}; this release reads {readable}")
    fields = {key: value for key, value in plain.items() if key not in ("format", "version")}
    if version == 2:
        fields = VERSION_2 | fields
    try:
        content = _Content(**fields)
    except pydantic.ValidationError as error:
        raise UserError(describe_first_error(error, _Content)) from error
    for name, values in (("mean", content.mean), ("std", content.std)):
        if len(values) != content.input_size[0]:
            raise UserError(
                f"{name}: must have a value for each of {content.input_size[0]} channels"
            )
    return content


def _check_bytes(tensors: dict[str, Any]) -> None:
    """Refuse tensors that share values: their copies may take thousands of times as much."""
    plain = [tensor for tensor in tensors.values() if _has_values(tensor)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage() for each in plain}
    if sum(each.nbytes for each in plain) > sum(each.nbytes() for each in storages.values()):
        raise UserError("the tensors are larger than their data in the file")


def _has_values(tensor: Any) -> bool:
    """Return True for a plain tensor whose values lie in the file; others are refused by name."""
    strided = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
    return strided and not tensor.is_meta and tensor.nbytes <= tensor.untyped_storage().nbytes()


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
