"""Files of tensors and plain data: written completely or not at all, read without running code."""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import pickle
import re
import types
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from compress.models.archive import SAVE_TENSORS, check_kind, check_sizes
from compress.runtime import distributed
from compress.runtime.checksum import check_archive, seal_archive
from compress.runtime.errors import UserError, one_line
from compress.runtime.files import atomic_write, is_file_name, require_file
from compress.runtime.plain_files import check_plain, read_json
from compress.runtime.quiet import no_warnings

SAFETENSORS, INDEX = ".safetensors", ".safetensors.index.json"
# Files of `compress export`, from which no weights are read.
EXPORTED = (".onnx", ".pt2", ".xml", ".pte", ".tflite")


def require_weights(path: str | Path) -> Path:
    """Return `path` as a Path.

    Raises:
        UserError: `path` is not a file, or is an exported one by its name.
    """
    path = require_file(path)
    if path.suffix.lower() in EXPORTED:
        raise UserError(
            f"{path}: an exported file; pass the weights file that it was made from, as model.pth"
        )
    return path


def write_tensors(data: Any, path: str | Path) -> None:
    """Write tensors and plain data to `path`, completely or not at all, with a checksum.

    In a distributed run only the main process writes.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    if distributed.is_main():
        with atomic_write(path, _estimate_bytes(data)) as file:
            save_tensors(data, file)


def save_tensors(data: Any, file: IO[bytes]) -> None:
    """Write tensors and plain data to a file that is open for reading and writing, checksummed."""
    torch.save(data, file)
    seal_archive(file)


def _estimate_bytes(data: Any) -> int:
    """Return the bytes of all tensors in plain data."""
    if isinstance(data, torch.Tensor):
        return int(data.nbytes)
    if isinstance(data, dict):
        return sum(map(_estimate_bytes, data.values()))
    return sum(map(_estimate_bytes, data)) if isinstance(data, list | tuple) else 0


def read_tensors(path: str | Path) -> Any:
    """Read tensors and plain data, on the CPU. Code in the file is refused.

    Raises:
        UserError: there is no such file, it is an exported one, it is cut short or damaged (see
            `compress.runtime.checksum`), it holds pickled code, or its parts are out of proportion
            (see `compress.models.archive`).
    """
    path = require_weights(path)
    try:
        check_kind(path)
        check_sizes(path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    with ThreadPoolExecutor(1) as threads:
        # Checksums are computed without Python's lock: on two cores, while the content is read.
        checked = threads.submit(check_archive, path)
        try:
            return _load_plain(path)
        finally:
            # Damage is what the message is about, whatever it led to.
            checked.result()


def _load_plain(path: Path) -> Any:
    """Load plain data; what it may not hold is refused."""
    try:
        with no_warnings:
            content = torch.load(path, map_location="cpu", weights_only=True)
            check_plain(content)
            return content
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_describe_code(path, error)}") from error
    except Exception as error:  # torch reports damage in a dozen exception types
        raise UserError(f"{path}: not a weights file, or a damaged one") from error


def read_training_file(path: str | Path) -> Any:
    """Read tensors as a training script or a library left them: PyTorch's files or safetensors.

    Beside tensors and plain data, PyTorch's files may hold a few types of Python and NumPy (see
    `ALLOWED`). They are allowed by name, and are rebuilt without running code from the file.

    Args:
        path: a file of ``torch.save``, ``*.safetensors``, or the index of a sharded one,
            ``*.safetensors.index.json``.

    Raises:
        UserError: as `read_tensors`.
    """
    path = require_file(path)
    if path.name.endswith((SAFETENSORS, INDEX)):
        return _read_safetensors(path)
    with torch.serialization.safe_globals(ALLOWED):
        return read_tensors(path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    shards = _read_index(path) if path.name.endswith(INDEX) else [path]
    tensors: dict[str, torch.Tensor] = {}
    try:
        for shard in shards:
            check_kind(require_file(shard))
            tensors |= load_file(shard)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a weights file, or a damaged one") from error
    return tensors


def _read_index(path: Path) -> list[Path]:
    """Return the files that an index lists, which lie beside it."""
    try:
        names = sorted(set(read_json(path)["weight_map"].values()))
        if not all(map(is_file_name, names)):
            raise ValueError("a file outside of the index's folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not an index of safetensors ({one_line(error)})") from error
    return [path.with_name(name) for name in names]


def _describe_code(path: Path, error: Exception) -> str:
    """Describe a file that holds more than plain data, and what to do."""
    try:
        found = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a file in torch's old format, or a manipulated one
        found = re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
    if any(name.startswith("torch.nn.modules.") for name in found):
        what = "holds a whole network, which only code could rebuild"
    else:
        named = f", such as {', '.join(found[:3])}" if found else ""
        what = f"refused: not plain data, it may hold code{named}"
    return f"{what}; nothing was executed; {SAVE_TENSORS}"


def _rebuild_table(*arguments: object) -> collections.OrderedDict[Any, Any]:
    """Stand in for dictionaries with defaults or attributes, whose items follow in the file."""
    return collections.OrderedDict(*[each for each in arguments if isinstance(each, dict)])


def _rebuild_list(items: Iterable[Any] = (), length: int | None = None) -> list[Any]:
    """Stand in for a deque, whose items follow in the file."""
    return list(items)


def _rebuild_nothing(*arguments: object) -> None:
    """Stand in for a type that a file names."""


def _by_names(found: Any, *names: str) -> list[tuple[Any, str]]:
    return [(found, name) for name in names]


# Types beside tensors in the files of training scripts; what they do is create values. Types that
# belong to other packages or to the file system are read as plain ones.
ALLOWED: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
    *(frozenset, slice),
    *(np.dtype, np.ndarray, *{type(np.dtype(code)) for code in np.typecodes["All"]}),
    *_by_names(
        np._core.multiarray.scalar,  # type: ignore[attr-defined]
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    ),
    *_by_names(
        np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
    ),
    *_by_names(pathlib.PurePosixPath, "pathlib.PurePosixPath", "pathlib.PosixPath"),
    *_by_names(pathlib.PurePosixPath, "pathlib._local.PurePosixPath", "pathlib._local.PosixPath"),
    *_by_names(pathlib.PureWindowsPath, "pathlib.PureWindowsPath", "pathlib.WindowsPath"),
    *_by_names(
        pathlib.PureWindowsPath, "pathlib._local.PureWindowsPath", "pathlib._local.WindowsPath"
    ),
    *_by_names(_rebuild_table, "collections.defaultdict"),
    *_by_names(_rebuild_list, "collections.deque"),
    # The default of a `defaultdict`, the type of an argument: nothing needs to call these.
    *_by_names(
        _rebuild_nothing,
        *(f"builtins.{name}" for name in ("bool", "int", "float", "str", "list", "dict")),
    ),
    *_by_names(
        collections.OrderedDict,
        "lightning_fabric.utilities.data.AttributeDict",
        "lightning.fabric.utilities.data.AttributeDict",
        "pytorch_lightning.utilities.parsing.AttributeDict",
        "lightning.pytorch.utilities.parsing.AttributeDict",
        "yacs.config.CfgNode",
    ),
]
