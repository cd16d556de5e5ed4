"""A network as plain data: saved whatever its widths, and loaded without running anything from the file.

A pruned network no longer fits the class it came from, so its `state_dict` alone cannot be loaded. A weights
file therefore also holds what the network was built from and the widths that pruning left: the network is built
anew by name, its layers are narrowed to those widths, and the tensors are laid in. What comes out is a plain
torchvision module.
"""

from __future__ import annotations

import io
import math
import pickle
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.build import skeleton
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError, one_line
from compress.runtime.files import atomic_write, require_file

FORMAT, VERSION = "compress.weights", 1

# The attributes in which pruning leaves a layer's width. A file may only make them smaller than the network's own.
WIDTHS = (
    "in_channels",
    "out_channels",
    "groups",
    "in_features",
    "out_features",
    "num_features",
    "num_channels",
    "normalized_shape",
    "embed_dim",
    "kdim",
    "vdim",
    "head_dim",
    "num_heads",
    "hidden_dim",
)


@dataclass(frozen=True)
class Checkpoint:
    """A trained classifier and all that is needed to use it.

    Args:
        model: images (B, 3, H, W), normalised, to logits (B, classes); in evaluation mode, on the CPU.
        network: what the model was built from.
        classes: the names of the classes, in the order of the logits.
        input_size: (3, H, W).
        mean, std: of each channel, for pixels scaled to 0..1.
        data: the data set it was trained on.
        origin: how it came to be: recipe, device, package_versions, the data's checksum, every stage's figures.
        sparse: whether it was pruned weight by weight: its zeros are not parameters that are left.
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


def save(checkpoint: Checkpoint, path: str | Path) -> None:
    """Write `checkpoint` to `path`, whole or not at all."""
    write_tensors(to_dict(checkpoint), path)


def overhead(checkpoint: Checkpoint) -> int:
    """Bytes, at most, that a weights file of this network holds beside its tensors, however narrow it becomes."""
    tensors = checkpoint.model.state_dict().values()
    whole = to_dict(checkpoint) | {
        "widths": {path: _widths(module) for path, module in checkpoint.model.named_modules()}
    }
    aligned = (
        64 * len(tensors) + 2048
    )  # each entry of the file begins at a multiple of 64; and texts may be repeated
    return _bytes(whole) - sum(int(tensor.nbytes) for tensor in tensors) + aligned


def file_size(checkpoint: Checkpoint) -> int:
    """Bytes that a weights file of this network takes."""
    return _bytes(to_dict(checkpoint))


def _bytes(kept: dict[str, Any]) -> int:
    file = io.BytesIO()
    torch.save(kept, file)
    return file.tell()


def to_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    """`checkpoint` as tensors and plain data, for `restore`."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "network": {
            key: value for key, value in asdict(checkpoint.network).items() if key != "weights"
        },
        "widths": widths(checkpoint.model, checkpoint.network, len(checkpoint.classes)),
        "state_dict": {
            key: tensor.detach().cpu() for key, tensor in checkpoint.model.state_dict().items()
        },
        "classes": list(checkpoint.classes),
        "input_size": list(checkpoint.input_size),
        "mean": [float(x) for x in checkpoint.mean],
        "std": [float(x) for x in checkpoint.std],
        "data": checkpoint.data,
        "origin": checkpoint.origin,
        "sparse": checkpoint.sparse,
    }


def write_tensors(kept: Any, path: str | Path) -> None:
    """Write tensors and plain data to `path`, whole or not at all."""
    with atomic_write(path) as file:
        torch.save(kept, file)


def read_tensors(path: str | Path) -> Any:
    """What `write` wrote: tensors and plain data, never code.

    Raises:
        UserError: there is no such file, it is cut short or damaged, or it holds pickled code.
    """
    path = require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, this is not plain data (it may hold code); nothing was run"
        ) from error
    except Exception as error:  # torch reports damage in a dozen exception types
        raise UserError(f"{path}: not a weights file, or a damaged one") from error


def load(path: str | Path, own: Callable[..., nn.Module] | None = None) -> Checkpoint:
    """Load a weights file; no code from the file is run.

    Args:
        path: a file that `save` wrote.
        own: the function that builds the network, for a file whose network is a person's own
            (``package.module:function``): such a function is never imported on the file's word alone.

    Raises:
        UserError: anything is wrong with the file; one line, naming it.
    """
    kept = read_tensors(path)
    try:
        return from_dict(kept, own)
    except UserError as error:
        raise UserError(f"{path}: {one_line(error)}") from error
    except Exception as error:  # whatever a tampered file brings about, it is the file's fault
        raise UserError(f"{path}: its parts do not fit together ({one_line(error)})") from error


def widths(model: nn.Module, network: ModelSpec, classes: int) -> dict[str, dict[str, Any]]:
    """Where `model` differs in width from `network` freshly built: module path to attribute to value."""
    if (
        network.source == "custom"
    ):  # a person's own: every width is kept, so that saving need not build it
        return {path: kept for path, module in model.named_modules() if (kept := _widths(module))}
    fresh = dict(skeleton(network, classes).named_modules())
    return {
        path: changed
        for path, module in model.named_modules()
        if (changed := {k: v for k, v in _widths(module).items() if v != getattr(fresh[path], k)})
    }


def _widths(module: nn.Module) -> dict[str, Any]:
    found = {
        name: getattr(module, name)
        for name in WIDTHS
        if isinstance(getattr(module, name, None), int | tuple)
    }
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in found.items()
    }


def from_dict(plain: dict[str, Any], own: Callable[..., nn.Module] | None = None) -> Checkpoint:
    """What `plain` was made from.

    Raises:
        UserError: it is not a checkpoint's, or no longer.
    """
    if (
        not isinstance(plain, dict)
        or not isinstance(plain.get("format"), str)
        or plain["format"] != FORMAT
    ):
        raise UserError("not a weights file of this program")
    if type(plain.get("version")) is not int or plain["version"] != VERSION:
        raise UserError(
            f"weights file version {plain.get('version')!r}, this program reads {VERSION}"
        )
    network = ModelSpec(**plain["network"])
    classes, size, mean, std = (plain[name] for name in ("classes", "input_size", "mean", "std"))
    headed = network.head is None or isinstance(network.head, tuple)
    if (
        not isinstance(network.name, str)
        or type(network.pretrained) not in (bool, str)
        or not headed
    ):
        raise UserError(f"{network} is not a network")
    if not _list_of(classes, str) or not classes or len(set(classes)) < len(classes):
        raise UserError("its classes are not names, each once")
    if (
        not _list_of(size, int)
        or len(size) != 3
        or size[0] != 3
        or not all(1 <= side <= 1024 for side in size)
    ):
        raise UserError(f"its input size {size!r} is not (3, height, width), at most 1024 each")
    if not (
        _list_of(mean, float)
        and _list_of(std, float)
        and len(mean) == len(std) == 3
        and min(std) > 0
    ):
        raise UserError("its normalization is not three means and three positive deviations")
    if type(sparse := plain.get("sparse", False)) is not bool:  # files of before know of none
        raise UserError(f"sparse is {sparse!r}, not true or false")
    if network.source == "custom" and own is None:
        raise UserError(
            f"its network is {network.name!r}, a person's own: pass that function to load it"
        )
    model = skeleton(network, len(classes), own)
    modules = dict(model.named_modules())
    for path, changed in plain["widths"].items():
        for name, value in changed.items():
            _narrow(modules[path], name, value)
    _lay_in(model, plain["state_dict"])
    with torch.inference_mode():
        logits = model.eval()(torch.zeros(1, *size))
    if logits.shape != (1, len(classes)) or not bool(torch.isfinite(logits).all()):
        raise UserError(f"its network does not answer with {len(classes)} finite logits")
    return Checkpoint(
        model=model,
        network=network,
        classes=tuple(classes),
        input_size=(size[0], size[1], size[2]),
        mean=tuple(mean),
        std=tuple(std),
        data=str(plain["data"]),
        origin=dict(plain["origin"]),
        sparse=sparse,
    )


def _list_of(values: Any, kind: type) -> bool:
    """Whether `values` is a list of nothing but `kind`, the numbers finite."""
    if not isinstance(values, list) or not all(type(value) is kind for value in values):
        return False
    return kind is not float or all(math.isfinite(value) for value in values)


def _narrow(module: nn.Module, name: str, value: Any) -> None:
    """Set one width, if it is one and does not exceed the network's own."""
    ours = getattr(module, name, None) if name in WIDTHS else None
    value = tuple(value) if isinstance(value, list) else value
    sizes, limits = (value, ours) if isinstance(value, tuple) else ((value,), (ours,))
    fits = (
        isinstance(value, int | tuple)
        and type(value) is type(ours)
        and len(sizes) == len(limits)  # type: ignore[arg-type]
        and all(type(s) is int and 1 <= s <= limit for s, limit in zip(sizes, limits, strict=True))  # type: ignore[arg-type]
    )
    if not fits:
        raise UserError(f"{name} = {value!r} is not a width of this network")
    setattr(module, name, value)


def _lay_in(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put `tensors` in the place of the parameters and buffers of `model`, whatever their widths."""
    wanted = model.state_dict()
    if wanted.keys() != tensors.keys():
        odd = sorted(wanted.keys() ^ tensors.keys())
        raise UserError(
            f"its tensors are not the network's ({odd[0]!r} and {len(odd) - 1} more differ)"
        )
    for key, tensor in tensors.items():
        due = wanted[key]
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise UserError(f"{key!r} is not a plain tensor")
        shrunk = tensor.dim() == due.dim() and all(
            0 < a <= b for a, b in zip(tensor.shape, due.shape, strict=True)
        )
        if tensor.dtype != due.dtype or not (
            shrunk or math.prod(tensor.shape) == math.prod(due.shape) == 1
        ):
            raise UserError(
                f"tensor {key!r} of shape {tuple(tensor.shape)} does not fit the network"
            )
        if (
            tensor.nbytes > tensor.untyped_storage().nbytes()
        ):  # a file of a few bytes may not ask for gigabytes
            raise UserError(f"tensor {key!r} is larger than what the file holds of it")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"tensor {key!r} holds values that are not finite")
        path, _, name = key.rpartition(".")
        parent = model.get_submodule(path)
        if name in parent._parameters:
            setattr(parent, name, nn.Parameter(tensor.clone()))
        else:
            parent._buffers[name] = tensor.clone()
    for path, module in model.named_modules():
        weight, due = getattr(module, "weight", None), _weight_shape(module)
        if due is not None and weight is not None and weight.shape != due:
            raise UserError(
                f"tensor '{path}.weight' of shape {tuple(weight.shape)} is not of its layer's width, {due}"
            )
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        raise UserError("a tensor of the network is missing")


def _weight_shape(module: nn.Module) -> tuple[int, ...] | None:
    """The shape that the weight of a layer of these widths has."""
    if isinstance(module, nn.Conv2d):
        return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features)
    if isinstance(module, nn.BatchNorm2d):
        return (module.num_features,)
    return tuple(module.normalized_shape) if isinstance(module, nn.LayerNorm) else None
