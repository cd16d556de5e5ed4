"""The networks of a demo: at most two, that classify images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.deployment.formats import count_bytes
from compress.deployment.load_model import Foreign, choose_builder, load_model
from compress.models.checkpoint import Checkpoint
from compress.runtime.errors import UserError
from compress.runtime.files import require_file
from compress.runtime.text import safe_line

# More do not fit side by side.
MOST_MODELS = 2


@dataclass(frozen=True)
class DemoModel:
    """A network of a demo.

    Args:
        name: what it is called on the page.
        file: its file, and those that belong to it.
    """

    name: str
    file: Path
    checkpoint: Checkpoint

    @property
    def bytes(self) -> int:
        """Size of its file, in bytes."""
        return count_bytes(self.file)


def open_models(
    files: Sequence[Path], builders: Sequence[str] = (), foreign: Foreign | None = None
) -> list[DemoModel]:
    """Open the networks of a demo.

    Args:
        files: weights files or exported files.
        builders: functions that build custom networks of weights files.
        foreign: what a file of another program does not say about itself.

    Raises:
        UserError: a file cannot be used, or labels pixels; or there are too many.
    """
    if len(files) > MOST_MODELS:
        raise UserError(f"{len(files)} networks given; a demo shows one, or two side by side")
    for file in files:
        require_file(file)
    return [
        open_model(file, name, builders, foreign)
        for file, name in zip(files, name_files(files), strict=True)
    ]


def open_model(
    file: Path, name: str, builders: Sequence[str] = (), foreign: Foreign | None = None
) -> DemoModel:
    """Open a network of a demo.

    Raises:
        UserError: the file cannot be used, or its network labels pixels.
    """
    checkpoint = load_model(file, choose_builder(file, builders), foreign)
    if checkpoint.labels == "pixels":
        raise UserError(
            f"{file}: labels pixels, and a demo shows classes of images; use"
            " `compress predict --out FOLDER`"
        )
    return DemoModel(name, file, checkpoint)


def name_files(files: Sequence[Path]) -> list[str]:
    """Return a name for each file: that of the file, after its folder's if two are called alike.

    Example:
        >>> name_files([Path("runs/a/model.pth"), Path("runs/b/model.onnx")])
        ['model.pth', 'model.onnx']
    """
    alike = len({file.name for file in files}) < len(files)
    names = [f"{file.resolve().parent.name}/{file.name}" if alike else file.name for file in files]
    return [safe_line(name) for name in names]
