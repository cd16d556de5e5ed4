"""Modules as they are passed from Python: unwrapped, checked, and copied."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from compress.models.outputs import return_logits
from compress.models.placeholders import has_lazy_parameters
from compress.runtime.errors import UserError, describe_type, one_line

# What makes plain weights of those that a hook computes from other tensors.
REMEDIES: dict[type, str] = {
    WeightNorm: "torch.nn.utils.remove_weight_norm(LAYER)",
    SpectralNorm: "torch.nn.utils.remove_spectral_norm(LAYER)",
    BasePruningMethod: "torch.nn.utils.prune.remove(LAYER, 'weight')",
}
PARAMETRIZED = "torch.nn.utils.parametrize.remove_parametrizations(LAYER, 'weight')"


def unwrap(module: nn.Module) -> nn.Module:
    """Return the module inside of `torch.compile`, `DataParallel` and `DistributedDataParallel`.

    Example:
        >>> type(unwrap(nn.DataParallel(nn.ReLU()))).__name__
        'ReLU'
    """
    while True:
        if isinstance(module, nn.DataParallel | DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def require_module(found: Any, what: str) -> nn.Module:
    """Return a module without its wrappers, if it can be trained and cut.

    Args:
        what: the argument, in messages.

    Raises:
        UserError: it is no module, or one without plain weights; the message says what to pass.
    """
    if not isinstance(found, nn.Module):
        raise UserError(f"{what}: {_describe_object(found)}")
    module = unwrap(found)
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise UserError(f"{what}: a TorchScript module; pass the module that it was made from")
    if has_lazy_parameters(module):
        raise UserError(
            f"{what}: {name} has lazy layers without shapes; run one batch of images through it"
        )
    if any(".quantized." in type(each).__module__ for each in module.modules()):
        raise UserError(f"{what}: {name} is quantized; pass the module before its quantization")
    return module


def copy_module(found: Any, what: str = "model") -> nn.Module:
    """Return a copy of a module that returns its logits alone.

    Raises:
        UserError: as `require_module`; or it cannot be copied.
    """
    module = require_module(found, what)
    try:
        return return_logits(copy.deepcopy(module))
    # A module may raise anything.
    except Exception as error:
        reason = describe_computed_weights(module) or one_line(error)
        raise UserError(f"{what}: {type(module).__name__} cannot be copied: {reason}") from error


def hold_copy(module: nn.Module, what: str = "model") -> nn.Module:
    """Return a copy of `module` on the CPU in float32, to be trained or cut apart from it.

    Raises:
        UserError: as `copy_module`.
    """
    return copy_module(module, what).cpu().float()


def describe_computed_weights(module: nn.Module) -> str:
    """Say of which layers the weights are computed from other tensors, and how to make them plain.

    Returns:
        A part of a sentence; empty if there are no such layers.
    """
    found = {path: _find_remedy(layer) for path, layer in module.named_modules()}
    computed = {path: remedy for path, remedy in found.items() if remedy}
    if not computed:
        return ""
    some = ", ".join([*computed][:3]) + (", …" if len(computed) > 3 else "")
    remedies = " or ".join(dict.fromkeys(computed.values()))
    return f"the weights of {some} are computed from other tensors; call {remedies} first"


def _find_remedy(layer: nn.Module) -> str:
    if parametrize.is_parametrized(layer):
        return PARAMETRIZED
    hooks = [*layer._forward_pre_hooks.values()]
    return next((REMEDIES[kind] for kind in REMEDIES if _has_kind(hooks, kind)), "")


def _has_kind(hooks: list[Any], kind: type) -> bool:
    return any(isinstance(hook, kind) for hook in hooks)


def _describe_object(found: Any) -> str:
    if isinstance(found, type) and issubclass(found, nn.Module):
        return f"{found.__name__} is a class; pass an instance, {found.__name__}(…)"
    if isinstance(getattr(found, "model", None), nn.Module):
        return f"{describe_type(found)} is no module; pass its .model"
    if isinstance(found, str | Path):
        return f"{found} is no module; pass compress.load(FILE).model, or a module of yours"
    return f"{describe_type(found)} is no module; pass a torch.nn.Module"
