"""Files of tensors and plain data: written completely or not at all, read without running code."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from compress.runtime.errors import UserError
from compress.runtime.files import atomic_write, require_file


def write_tensors(data: Any, path: str | Path) -> None:
    """Write tensors and plain data to `path`, completely or not at all.

    Raises:
        UserError: the folder cannot be written.
    """
    with atomic_write(path) as file:
        torch.save(data, file)


def read_tensors(path: str | Path) -> Any:
    """Read tensors and plain data, on the CPU. Code in the file is refused.

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
            f"{path}: refused: not plain data, it may hold code; nothing was executed"
        ) from error
    except Exception as error:  # torch reports damage in a dozen exception types
        raise UserError(f"{path}: not a weights file, or a damaged one") from error
