"""Layers of pruned networks: widths, removed blocks, and filling a skeleton with both and tensors.

Files are not trusted: they may only make a network smaller than the one that they name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.build import skeleton
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError

# The attributes in which layers keep their widths.
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


def layer_widths(module: nn.Module) -> dict[str, int | list[int]]:
    """Return the widths that are attributes of `module` itself, not properties of its class."""
    found = {name: vars(module)[name] for name in WIDTHS if name in vars(module)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if isinstance(value, int | tuple)
    }


def pruned_widths(
    model: nn.Module, spec: ModelSpec, classes: int
) -> dict[str, dict[str, int | list[int]]]:
    """Return the widths in which `model` differs from a new network: by module path and attribute.

    Of a ``custom`` network all widths are returned, so that saving need not build it.
    """
    widths = {path: layer_widths(module) for path, module in model.named_modules()}
    if spec.source != "custom":
        full = {
            path: layer_widths(module) for path, module in skeleton(spec, classes).named_modules()
        }
        widths = {
            path: {name: value for name, value in found.items() if value != full[path].get(name)}
            for path, found in widths.items()
        }
    return {path: found for path, found in widths.items() if found}


def set_widths(model: nn.Module, widths: Mapping[str, Mapping[str, Any]]) -> None:
    """Set the widths that `pruned_widths` returned, in place.

    Raises:
        UserError: there is no such layer, or a value is no width of it or exceeds its own.
    """
    modules = dict(model.named_modules())
    for path, changed in widths.items():
        if path not in modules:
            raise UserError(f"widths: {path!r} is not a layer of the network")
        for name, value in changed.items():
            _set_width(modules[path], path, name, value)


def _set_width(module: nn.Module, path: str, name: str, value: Any) -> None:
    full = vars(module).get(name) if name in WIDTHS else None
    value = tuple(value) if isinstance(value, list) else value
    sizes, limits = (value, full) if isinstance(value, tuple) else ((value,), (full,))
    fits = (
        isinstance(value, int | tuple)
        and type(value) is type(full)
        and len(sizes) == len(limits)  # type: ignore[arg-type]
        and all(type(s) is int and 1 <= s <= limit for s, limit in zip(sizes, limits, strict=True))  # type: ignore[arg-type]
    )
    if not fits:
        raise UserError(f"widths: {path}.{name} = {value!r} is not a width of the network")
    setattr(module, name, value)


def remove_blocks(model: nn.Module, paths: Iterable[str]) -> None:
    """Replace modules by ones that give back their input, in place.

    Raises:
        UserError: there is no such module.

    Example:
        >>> model = torchvision.models.resnet18()
        >>> remove_blocks(model, ["layer3.1"])
        >>> removed_blocks(model)
        ['layer3.1']
    """
    modules = dict(model.named_modules())
    for path in paths:
        if not path or path not in modules:
            raise UserError(f"removed: {path!r} is not a block of the network")
        skip = nn.Identity()
        # Tells it from an identity of the network's own.
        skip.removed = True  # type: ignore[assignment]
        parent, _, name = path.rpartition(".")
        model.get_submodule(parent).register_module(name, skip)


def removed_blocks(model: nn.Module) -> list[str]:
    """Return the paths of the modules that `remove_blocks` replaced."""
    return [path for path, module in model.named_modules() if vars(module).get("removed") is True]


def set_tensors(model: nn.Module, tensors: Mapping[str, Any]) -> None:
    """Replace all parameters and buffers of a skeleton by contiguous copies of `tensors`, in place.

    It is in evaluation mode then.

    Raises:
        UserError: a name is missing or unknown, or a tensor does not fit its layer.
    """
    full = model.state_dict()
    originals = dict(model.named_parameters(remove_duplicate=False))
    if full.keys() != tensors.keys():
        differing = sorted(full.keys() ^ tensors.keys(), key=str)
        raise UserError(
            f"state_dict: the tensors are not the network's: {differing[0]!r} and"
            f" {len(differing) - 1} more differ"
        )
    shared: dict[Tensor, nn.Parameter] = {}
    for key, tensor in tensors.items():
        _check_tensor(key, tensor, full[key])
        path, _, name = key.rpartition(".")
        parent, copy = model.get_submodule(path), contiguous_copy(tensor)
        if name not in parent._parameters:
            parent._buffers[name] = copy
            continue
        # A parameter that two layers share stays one, and its values must be, too.
        parameter = shared.setdefault(originals[key], nn.Parameter(copy))
        if parameter.shape != copy.shape or not torch.equal(parameter, copy):
            raise UserError(f"tensor {key!r} differs from the one that it is shared with")
        setattr(parent, name, parameter)
    # In training mode, a look at a spectrally normalized weight changes its tensors.
    model.eval()
    for path, module in model.named_modules():
        weight, shape = getattr(module, "weight", None), _weight_shape(module)
        if shape is not None and weight is not None and weight.shape != shape:
            raise UserError(
                f"tensor '{path}.weight' of shape {tuple(weight.shape)} does not match its layer's"
                f" widths, {shape}"
            )
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        raise UserError("state_dict: a tensor of the network is missing")


def contiguous_copy(tensor: Tensor) -> Tensor:
    """Return a detached, contiguous copy of `tensor` on the CPU."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _check_tensor(key: str, tensor: Any, full: Tensor) -> None:
    """Refuse what is not a finite tensor of the type and at most the shape of `full`."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
        raise UserError(f"{key!r} is not a plain tensor")
    smaller = tensor.dim() == full.dim() and all(
        0 < size <= limit for size, limit in zip(tensor.shape, full.shape, strict=True)
    )
    scalar = math.prod(tensor.shape) == math.prod(full.shape) == 1
    if tensor.dtype != full.dtype or not (smaller or scalar):
        raise UserError(f"tensor {key!r} of shape {tuple(tensor.shape)} does not fit the network")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        # Repeated values: a copy of a few bytes might take gigabytes.
        raise UserError(f"tensor {key!r} is larger than its data in the file")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise UserError(f"tensor {key!r} holds values that are not finite")


def _weight_shape(module: nn.Module) -> tuple[int, ...] | None:
    """Return the shape of a layer's weight by its widths; None for layers of another kind."""
    if isinstance(module, nn.Conv2d):
        return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
    if isinstance(module, nn.Linear):
        return (module.out_features, module.in_features)
    if isinstance(module, nn.BatchNorm2d):
        return (module.num_features,)
    return tuple(module.normalized_shape) if isinstance(module, nn.LayerNorm) else None
