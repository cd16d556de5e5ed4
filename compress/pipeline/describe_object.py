"""Descriptions of functions and objects by their code and values, to tell one from another."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import CellType, CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.models.modules import fingerprint_module


def describe_object(found: Any, depth: int = 0) -> str:
    """Describe a function or a plain object by its code and values, to tell it from others.

    What a function calls is not followed: a change there is not seen.
    """
    if depth > 4 or isinstance(found, str | bytes | int | float | bool | None):
        return repr(found) if depth <= 4 else type(found).__qualname__
    if isinstance(found, Tensor | np.ndarray):
        return _describe_values(found)
    if isinstance(found, nn.Module):
        return f"{type(found).__module__} {fingerprint_module(found)}"
    if inspect.ismodule(found):
        # Its attributes change as other modules are imported.
        return found.__name__
    if isinstance(found, list | tuple | set | frozenset):
        described = [describe_object(each, depth + 1) for each in found]
        return repr(sorted(described) if isinstance(found, set | frozenset) else described)
    if isinstance(found, Mapping):
        return repr([(repr(key), describe_object(found[key], depth + 1)) for key in found])
    parts: list[Any]
    if isinstance(found, functools.partial):
        parts = [found.func, *found.args, found.keywords]
    elif inspect.ismethod(found):
        parts = [found.__func__, found.__self__]
    elif inspect.isfunction(found):
        cells = [_read_cell(cell) for cell in found.__closure__ or ()]
        code = _describe_code(found.__code__)
        parts = [code, found.__defaults__, found.__kwdefaults__, cells]
    elif isinstance(found, type) or inspect.isbuiltin(found):
        return f"{found.__module__}.{found.__qualname__}"
    elif is_dataclass(found):
        parts = [getattr(found, field.name) for field in fields(found)]
    else:
        parts = [vars(found)] if hasattr(found, "__dict__") else []
    kind = f"{type(found).__module__}.{type(found).__qualname__}"
    return kind + repr([describe_object(part, depth + 1) for part in parts])


def _describe_values(found: Tensor | np.ndarray[Any, Any]) -> str:
    """Describe a tensor or an array by its type, shape and values."""
    kind = f"{found.dtype} {tuple(found.shape)}"
    if isinstance(found, Tensor):
        found = found.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{kind} {hashlib.sha256(found.tobytes()).hexdigest()}"


def _describe_code(code: CodeType) -> str:
    """Describe what a function computes, with the functions that are defined in it."""
    constants = [
        _describe_code(each) if inspect.iscode(each) else describe_object(each)
        for each in code.co_consts
    ]
    return repr([code.co_code.hex(), code.co_names, constants])


def _read_cell(cell: CellType) -> Any:
    # A name of the enclosing function that has no value yet.
    return cell.cell_contents if cell != CellType() else None
