"""Tools that log runs: what each of them offers. Does not import torch, nor any of the tools."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compress.recipe.registry import LOGGERS
from compress.runtime.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.reporting.tables import Table

# The group of runs that tools put them into, unless a variable of the tool's own says otherwise.
PROJECT = "compress"


@dataclass(frozen=True)
class LoggedRun:
    """A run to log.

    Args:
        out: the run directory.
        name: its name in the tool.
        id: what `Log.id` was in an earlier call; empty in the first one.
        step: the last step that was logged then; later ones are to be logged again.
    """

    out: Path
    name: str
    id: str = ""
    step: int = 0


class Log(Protocol):
    """A run in a tool that logs it. Steps never go back."""

    @property
    def id(self) -> str:
        """What the tool knows the run by."""
        ...

    def write_params(self, params: Mapping[str, Any]) -> None:
        """Log the recipe, as dotted keys and plain values."""
        ...

    def write_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers by name, so that a crash does not lose them."""
        ...

    def write_image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        """Log an image, uint8 (H, W, 3)."""
        ...

    def write_table(self, name: str, table: Table, step: int) -> None:
        """Log a table."""
        ...

    def close(self, done: bool) -> None:
        """Finish; `done` is False if the run was interrupted."""
        ...


@dataclass(frozen=True)
class LogTool:
    """A tool that logs runs.

    Args:
        name: its name in commands, and the extra that installs it.
        package: module that must be installed.
        open: opens the log of a run, new or resumed.
    """

    name: str
    package: str
    open: Callable[[LoggedRun], Log]

    def require_package(self) -> None:
        """Check that the tool is installed.

        Raises:
            UserError: it is not; the message names the extra.
        """
        if importlib.util.find_spec(self.package) is None:
            raise UserError(
                f"--log {self.name}: needs {self.package}, not installed here:"
                f" pip install 'compress[{self.name}]'"
            )


def get_tool(name: str) -> LogTool:
    """Return the tool `name`, which is not imported yet.

    Raises:
        UserError: there is no such tool, or it is not installed.
    """
    found: LogTool = LOGGERS.load(name)
    found.require_package()
    return found
