"""Weights & Biases: a run in the project that `WANDB_PROJECT` names, else in "compress"."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.reporting.loggers.log_tool import PROJECT, LoggedRun, LogTool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.reporting.tables import Table


class WandbLog:
    """A run in Weights & Biases; with `WANDB_MODE=offline`, in the run directory alone."""

    def __init__(self, run: LoggedRun) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.id or None,
            resume="allow",
            dir=run.out,
            reinit="create_new",
            # What is printed belongs to the terminal and its bars.
            settings=wandb.Settings(console="off"),
        )
        self.id = str(self._run.id)

    def write_params(self, params: Mapping[str, Any]) -> None:
        self._run.config.update(dict(params), allow_val_change=True)

    def write_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def write_image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        import wandb

        self._run.log({name: wandb.Image(pixels)}, step=step)

    def write_table(self, name: str, table: Table, step: int) -> None:
        import wandb

        rows = [list(row) for row in table.rows]
        self._run.log({name: wandb.Table(columns=list(table.headings), data=rows)}, step=step)

    def close(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)


TOOL = LogTool("wandb", "wandb", WandbLog)
