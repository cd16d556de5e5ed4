"""Networks of functions that are built once for a plan: whoever needs one more gets a copy.

A function of the user's may load weights for seconds, and print. What it prints when it is called
again is not shown.
"""

from __future__ import annotations

import copy
import inspect
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass
class _Built:
    """What functions have built: networks by function and arguments, and the functions called."""

    networks: dict[Any, nn.Module] = field(default_factory=dict)
    called: list[Any] = field(default_factory=list)
    reuses: bool = False


_open: list[_Built] = []


@contextmanager
def quiet_builders() -> Iterator[None]:
    """Show what a function prints in its first call of the block alone; it may be nested."""
    _open.append(_open[-1] if _open else _Built())
    try:
        yield
    finally:
        _open.pop()


@contextmanager
def reusing_networks(reuses: bool = True) -> Iterator[None]:
    """Let `call_builder` return copies, where it has called a function already; or not.

    Example:
        >>> with reusing_networks():
        ...     plan = make_plan(recipe)
    """
    with quiet_builders():
        before, _open[-1].reuses = _open[-1].reuses, reuses
        try:
            yield
        finally:
            _open[-1].reuses = before


def is_reusing() -> bool:
    """Return True if `call_builder` returns copies."""
    return bool(_open) and _open[-1].reuses


def call_builder(function: Callable[..., Any], **arguments: Any) -> Any:
    """Return what `function` returns; or a copy of it, in a block of `reusing_networks`.

    What it prints goes to standard error, so that it does not end up in a command's JSON.
    """
    # Other objects, as a module that is held in memory, return copies themselves.
    if not is_reusing() or not (inspect.isroutine(function) or inspect.isclass(function)):
        return _call(function, arguments)
    key, networks = (function, *sorted(arguments.items())), _open[-1].networks
    if key not in networks:
        # The skeletons are made from values, too.
        with torch.device("cpu"):
            built = _call(function, arguments)
        if not isinstance(built, nn.Module):
            return built
        networks[key] = built
    try:
        return copy.deepcopy(networks[key])
    # A module may raise anything.
    except Exception:
        return _call(function, arguments)


def _call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    called = _open[-1].called if _open else []
    if function not in called:
        called.append(function)
        with redirect_stdout(sys.stderr):
            return function(**arguments)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return function(**arguments)
