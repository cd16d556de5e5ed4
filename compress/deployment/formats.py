"""Export formats: how each writes a network, and how its files run. Does not import torch.

A format is an `ExportFormat` in a module of its own, registered in
`compress.recipe.registry.EXPORT_FORMATS`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compress.deployment.description import Description
from compress.recipe.registry import EXPORT_FORMATS
from compress.runtime.checksum import check_file
from compress.runtime.errors import UserError

if TYPE_CHECKING:
    from torch import nn

# Images (B, C, H, W), float32 or uint8, to logits, float32 (B, classes).
Infer = Callable[[NDArray[Any]], NDArray[np.float32]]


def infer_one_by_one(infer: Infer) -> Infer:
    """Return a function for batches of any size, by one that takes a batch of one image."""

    def infer_all(images: NDArray[Any]) -> NDArray[np.float32]:
        each = (np.ascontiguousarray(images[i : i + 1]) for i in range(len(images)))
        return np.concatenate([infer(image) for image in each])

    return infer_all


@dataclass(frozen=True)
class Runner:
    """An exported file in its runtime, on the CPU.

    Args:
        infer: computes logits.
        description: of the file; None if another program wrote it.
        input_size: (C, H, W) of its images, as the file tells; 0 is a side that it leaves open.
        num_classes: number of its logits; 0 if the file leaves it open.
        uint8: True if it takes pixels, 0 to 255.
    """

    infer: Infer
    description: Description | None
    input_size: tuple[int, int, int]
    num_classes: int
    uint8: bool


@dataclass(frozen=True)
class ExportFormat:
    """A file format with the runtime that runs it.

    Args:
        name: its name in commands.
        suffix: of its files, with the dot.
        extra: the extra of this package that installs what it needs; empty if none does.
        packages: modules that must be installed, to write and to run.
        write: writes a network in evaluation mode. Its arguments are the network; its description,
            whose `input_size` and `uint8` say what it takes; and the path.
        open: opens a file with a number of threads; 0 leaves it to the runtime.
        beside: suffixes of further files that belong to a file, of the same name.
    """

    name: str
    suffix: str
    extra: str
    packages: tuple[str, ...]
    write: Callable[[nn.Module, Description, Path], None]
    open: Callable[[Path, int], Runner]
    beside: tuple[str, ...] = ()

    def require_suffix(self, out: Path) -> None:
        """Check that a file to write has the format's suffix, by which it is known later.

        Raises:
            UserError: it has another one.
        """
        if out.suffix.lower() != self.suffix:
            raise UserError(f"{out}: files of format {self.name!r} end in {self.suffix}")

    def require_packages(self) -> None:
        """Check that what the format needs is installed.

        Raises:
            UserError: a package is missing; the message names the extra.
        """
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"format {self.name!r} needs {' and '.join(missing)}, not installed here:"
                f" pip install 'compress[{self.extra}]'"
            )


def get_format(name: str) -> ExportFormat:
    """Return the format `name`.

    Raises:
        UserError: there is no such format, or a package that it needs is missing.
    """
    found: ExportFormat = EXPORT_FORMATS.load(name)
    found.require_packages()
    return found


def find_format(path: str | Path) -> ExportFormat | None:
    """Return the format of an exported file, by its suffix; None for any other file."""
    suffix = Path(path).suffix.lower()
    formats = (EXPORT_FORMATS.load(name) for name in EXPORT_FORMATS.names())
    return next((each for each in formats if each.suffix == suffix), None)


def files_of(path: str | Path) -> list[Path]:
    """List a file, and those that belong to it."""
    found = find_format(path)
    suffixes = found.beside if found else ()
    return [Path(path), *(Path(path).with_suffix(suffix) for suffix in suffixes)]


def count_bytes(path: str | Path) -> int:
    """Count the bytes of a file, and of those that belong to it."""
    return sum(file.stat().st_size for file in files_of(path) if file.is_file())


def fill_size(size: tuple[int, int, int], image_size: int | None) -> tuple[int, int, int]:
    """Return the size (C, H, W) of a file's images, with what the file leaves open filled in.

    Args:
        size: as a `Runner` says it.
        image_size: side of the images.

    Raises:
        UserError: it is missing, or the file takes others.
    """
    channels, height, width = size
    if image_size is None and not (height and width):
        raise UserError("leaves open which images it takes; pass --image-size")
    if image_size is not None and image_size not in (height or image_size, width or image_size):
        raise UserError(f"takes images of {height}×{width}, not of --image-size {image_size}")
    return channels, height or image_size or 0, width or image_size or 0


def open_exported(path: str | Path, threads: int = 0) -> Runner:
    """Open an exported file in its runtime.

    Args:
        threads: number of threads; 0 leaves it to the runtime.

    Raises:
        UserError: the file is damaged, is of no known format, or its runtime is not installed.
    """
    found = find_format(path)
    if found is None:
        raise UserError(f"{path}: of no known format; known: {', '.join(EXPORT_FORMATS.names())}")
    found.require_packages()
    path, *beside = files_of(path)
    if all(each.is_file() for each in beside):
        check_file(path, beside)
    try:
        return found.open(path, threads)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
