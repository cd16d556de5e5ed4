"""What commands read: weights files, exported files, names of classes.

torch is imported by the functions that load a network.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compress.runtime.errors import UserError
from compress.runtime.files import is_file, require_file
from compress.runtime.plain_files import read_text

if TYPE_CHECKING:
    from torch import nn

    from compress.deployment.load_model import Foreign
    from compress.models.checkpoint import Checkpoint


def load_weights(weights: Path, builder: str | None) -> Checkpoint:
    """Load a weights file. torch is imported once the file is known to exist.

    Args:
        builder: ``package.module:function`` that builds the file's network, if it is a custom one.

    Raises:
        UserError: the file or the function does not exist, or the file is not a weights file.
    """
    require_file(weights)

    from compress.models.checkpoint import load

    return load(weights, load_builder(builder))


def load_builder(builder: str | None) -> Callable[..., nn.Module] | None:
    """Import the function that builds a custom network, if one is named; imports torch.

    Raises:
        UserError: it cannot be imported.
    """
    from compress.models.build import import_builder

    return import_builder(builder) if builder else None


def load_any_model(weights: Path, builder: str | None, foreign: Foreign) -> Checkpoint:
    """Load a weights file or an exported file.

    Raises:
        UserError: as `load_weights`, or the file cannot be used.
    """
    require_file(weights)

    from compress.deployment.load_model import load_model

    return load_model(weights, load_builder(builder), foreign)


def make_foreign(
    classes: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    image_size: int | None,
) -> Foreign:
    """Return what the foreign options say about a file of another program."""
    from compress.deployment.load_model import Foreign

    return Foreign(read_names(classes) if classes else None, mean, std, image_size)


def read_names(text: str) -> list[str]:
    """Return names written with commas, or one a line in a text file; JSON holds a list of them.

    Raises:
        UserError: the file cannot be read, or holds no names.
    """
    if not is_file(text):
        if Path(text).suffix in (".txt", ".json"):
            raise UserError(f"{text}: no such file")
        return [name.strip() for name in text.split(",")]
    try:
        content = read_text(text, encoding="utf-8-sig")
        is_json = content.lstrip().startswith(("[", "{"))
        names = json.loads(content) if is_json else content.splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{text}: not a list of names ({error})") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{text}: not a list of names")
    found = [name.strip() for name in names if name.strip()]
    if not found:
        raise UserError(f"{text}: holds no names")
    return found
