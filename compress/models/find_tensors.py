"""A network's tensors in what a training script saved, found by the network's own names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.runtime.errors import UserError, describe_type, did_you_mean

# Files of training scripts are at most this many containers deep.
MAX_DEPTH = 8

# Tensors beside those of the network, by their names: counters of wrappers and of profilers,
# weights in the loss, auxiliary heads that only train.
DISPENSABLE = re.compile(
    r"(^|.*\.)(num_batches_tracked|n_averaged|total_ops|total_params)$"
    r"|(criterion|loss|loss_fn|loss_func|aux1|aux2|AuxLogits)\."
)


# Tensors of which a network computes a weight, by their names, and what makes one of them.
PARTS = {
    re.compile(r"\.parametrizations\."): "torch.nn.utils.parametrize.remove_parametrizations",
    re.compile(r"_mask$"): "torch.nn.utils.prune.remove",
    re.compile(r"_u$"): "torch.nn.utils.remove_spectral_norm",
    re.compile(r"_g$"): "torch.nn.utils.remove_weight_norm",
}


@dataclass(frozen=True)
class Found:
    """Tensors under the network's own names.

    Args:
        prefix: what comes before every name in the file, as ``state_dict.module.``.
        tensors: by the network's own names.
        missing: names of the network that the file lacks.
        misshapen: names whose tensors have another shape than the network's.
        extra: names in the file, without the prefix, that the network lacks.
    """

    prefix: str
    tensors: dict[str, Tensor]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """True if these are the network's tensors, all of them."""
        return not self.missing and not self.misshapen


@dataclass(frozen=True)
class _Entry:
    name: str
    container: str
    tensor: Tensor


def find_tensors(content: Any, own: Mapping[str, Tensor], key: str | None = None) -> list[Found]:
    """Find the tensors of a network, under any key and any prefix.

    A prefix is dropped only where the network has no such name. Counters of batch norms may be
    missing, as they are in old files.

    Args:
        content: what the file holds: nested dictionaries and lists, with tensors in them.
        own: the network's ``state_dict()``.
        key: where to look, as ``model_ema``; everywhere if left out.

    Returns:
        All complete matches, those with the fewest extra tensors first; if there are none, the best
        incomplete one. Empty if no name matches.

    Raises:
        UserError: the content holds no tensors by name, or nothing under `key`.

    Example:
        >>> [found] = find_tensors({"net": {"module.fc.bias": torch.zeros(2)}}, own)
        >>> found.prefix, list(found.tensors)
        ('net.module.', ['fc.bias'])
    """
    entries = list(_flatten(content))
    if not entries:
        raise UserError("holds no tensors by name; save what model.state_dict() returns")
    if key is not None:
        below = [entry for entry in entries if entry.name.startswith(f"{key}.")]
        if not below:
            keys = [entry.name.split(".")[0] for entry in entries]
            raise UserError(f"no tensors under the key {key!r}{did_you_mean(key, keys)}")
        entries = below
    matches: list[Found] = []
    for wrapper in _wrappers(own):
        inner = {name.removeprefix(wrapper): tensor for name, tensor in own.items()}
        matches += [_match(entries, inner, prefix, wrapper) for prefix in _prefixes(entries, inner)]
        if complete := [found for found in matches if found.complete]:
            return sorted(complete, key=lambda found: (len(found.extra), len(found.prefix)))
    return sorted(matches, key=lambda found: len(found.misshapen) - len(found.tensors))[:1]


def describe_content(content: Any, most: int = 6) -> str:
    """Describe what a file holds, in a few words: its keys, with the number of their tensors."""
    entries = list(_flatten(content))
    if not isinstance(content, Mapping):
        return f"{describe_type(content)} with {len(entries)} tensors"
    direct = [entry for entry in entries if not entry.container]
    parts = [_describe_tensors(direct, "")] if direct else []
    for key, value in content.items():
        below = [e for e in entries if f"{e.container}.".startswith(f"{key}.")]
        if below:
            parts.append(f"{key} ({_describe_tensors(below, f'{key}.')})")
        elif not isinstance(value, Tensor | np.ndarray):
            parts.append(str(key)[:40])
    more = f" and {len(parts) - most} more keys" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more


def list_names(names: Iterable[str], most: int = 3) -> str:
    """List the first few names, and count the others."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def describe_parts(names: Iterable[str]) -> str:
    """Say that a file holds parts of weights in their place, and what to do; else return "".

    Args:
        names: of tensors that the network lacks.
    """
    names = list(names)
    found = (remedy for part, remedy in PARTS.items() if any(map(part.search, names)))
    remedy = next(found, None)
    if remedy is None:
        return ""
    return f"these are parts of weights: call {remedy} on the layers, and save the tensors again"


def describe_shape(tensor: Tensor) -> str:
    """Return the shape of `tensor` as ``64×3×7×7``."""
    return "×".join(map(str, tensor.shape)) or "a number"


def _flatten(
    content: Any, name: str = "", container: str = "", seen: frozenset[int] = frozenset()
) -> Iterator[_Entry]:
    """Yield the tensors in nested containers, by their names joined with dots."""
    if isinstance(content, np.ndarray) and content.dtype.kind in "fiub":
        content = torch.from_numpy(content)
    if isinstance(content, Tensor):
        if name:
            yield _Entry(name, container, content.detach())
        return
    if id(content) in seen or len(seen) > MAX_DEPTH:
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, list | tuple):
        items = enumerate(content)
    for key, value in items:
        yield from _flatten(
            value, f"{name}.{key}" if name else str(key), name, seen | {id(content)}
        )


def _wrappers(own: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield what may precede all names of a network: the network that it wraps was saved alone."""
    wrapper = ""
    while True:
        yield wrapper
        inner = [name.removeprefix(wrapper) for name in own]
        outer = {name.partition(".")[0] for name in inner}
        if len(outer) != 1 or not all(name.count(".") > 1 for name in inner):
            return
        wrapper += f"{outer.pop()}."


def _prefixes(entries: list[_Entry], own: Mapping[str, Tensor]) -> list[str]:
    """Return prefixes that lead to names of the network, those of the most tensors first."""
    votes: Counter[str] = Counter()
    for entry in entries:
        start = 0
        while start >= 0:
            mine = own.get(entry.name[start:])
            if mine is not None:
                votes[entry.name[:start]] += 2 if mine.shape == entry.tensor.shape else 1
            dot = entry.name.find(".", start)
            start = dot + 1 if dot >= 0 else -1
    return [prefix for prefix, _ in votes.most_common(8)]


def _match(entries: list[_Entry], own: Mapping[str, Tensor], prefix: str, wrapper: str) -> Found:
    """Match the tensors below a prefix with those of the network, which `wrapper` precedes."""
    below = {e.name.removeprefix(prefix): e for e in entries if e.name.startswith(prefix)}
    below |= _find_beside(entries, own, prefix, below)
    shared = [name for name in own if name in below]
    containers = {below[name].container for name in shared}
    extra = [
        name
        for name, entry in below.items()
        if name not in own and entry.container in containers and not DISPENSABLE.match(name)
    ]
    missing = [n for n in own if n not in below and not n.endswith("num_batches_tracked")]
    misshapen = [name for name in shared if below[name].tensor.shape != own[name].shape]
    return Found(
        prefix,
        {wrapper + name: below[name].tensor for name in shared},
        tuple(wrapper + name for name in missing),
        tuple(wrapper + name for name in misshapen),
        tuple(extra),
    )


def _find_beside(
    entries: list[_Entry], own: Mapping[str, Tensor], prefix: str, below: Mapping[str, _Entry]
) -> dict[str, _Entry]:
    """Find parts of a network beside the one that a prefix leads to.

    Some libraries save ``backbone.*`` and ``head.*`` for what the network has at its top.
    """
    outer = prefix[: prefix.rstrip(".").rfind(".") + 1]
    if not prefix or not below:
        return {}
    there = {name.partition(".")[0] for name in below}
    lacking = {f"{outer}{name}": name for name in own if name.partition(".")[0] not in there}
    return {lacking[entry.name]: entry for entry in entries if entry.name in lacking}


def _describe_tensors(entries: list[_Entry], prefix: str) -> str:
    shown = [f"{e.name.removeprefix(prefix)} {describe_shape(e.tensor)}" for e in entries[:2]]
    count = f"{len(entries)} tensor{'s' if len(entries) != 1 else ''}"
    return f"{count}: {', '.join(shown)}{', …' if len(entries) > 2 else ''}"
