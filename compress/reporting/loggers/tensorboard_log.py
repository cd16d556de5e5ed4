"""TensorBoard: event files in `tensorboard/` of the run directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.reporting.loggers.log_tool import LoggedRun, LogTool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.reporting.tables import Table

FOLDER = "tensorboard"


class TensorBoardLog:
    """A run in TensorBoard, written by torch's SummaryWriter."""

    id = FOLDER

    def __init__(self, run: LoggedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.out / FOLDER
        # What an earlier call wrote beyond its last step is hidden.
        purge = run.step + 1 if folder.exists() else None
        self._writer = SummaryWriter(folder, purge_step=purge)

    def write_params(self, params: Mapping[str, Any]) -> None:
        text = json.dumps(params, indent=2, default=str)
        self._writer.add_text("recipe", f"```json\n{text}\n```", 0)

    def write_metrics(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def write_image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def write_table(self, name: str, table: Table, step: int) -> None:
        self._writer.add_text(name, table.as_markdown(), step)

    def close(self, done: bool) -> None:
        self._writer.close()


TOOL = LogTool("tensorboard", "tensorboard", TensorBoardLog)
