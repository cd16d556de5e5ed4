"""Trackio: a run in the project "compress" of the local store, which `trackio show` opens."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.reporting.loggers.log_tool import PROJECT, LoggedRun, LogTool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.reporting.tables import Table


class TrackioLog:
    """A run in Trackio, which knows runs by their names."""

    def __init__(self, run: LoggedRun) -> None:
        import trackio

        self.id = run.id or f"{run.name}-{secrets.token_hex(3)}"
        self._run = trackio.init(
            os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=self.id,
            resume="must" if run.id else "never",
            embed=False,
        )

    def write_params(self, params: Mapping[str, Any]) -> None:
        self._run.config.update(params)

    def write_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def write_image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        import trackio

        self._run.log({name: trackio.Image(pixels)}, step=step)

    def write_table(self, name: str, table: Table, step: int) -> None:
        import trackio

        rows = [list(row) for row in table.rows]
        self._run.log({name: trackio.Table(columns=list(table.headings), data=rows)}, step=step)

    def close(self, done: bool) -> None:
        self._run.finish()


TOOL = LogTool("trackio", "trackio", TrackioLog)
