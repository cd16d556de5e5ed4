"""MLflow: a run in the store that `MLFLOW_TRACKING_URI` names, else MLflow's own in this folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from compress.reporting.loggers.log_tool import PROJECT, LoggedRun, LogTool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from compress.reporting.tables import Table

# MLflow takes so many parameters at once, of so many characters each.
PARAMS_AT_ONCE, PARAM_LENGTH = 100, 500


class MlflowLog:
    """A run in MLflow, written by its client, which leaves the caller's active run alone."""

    def __init__(self, run: LoggedRun) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        if run.id:
            self.id = run.id
            self._client.update_run(run.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        self.id = self._client.create_run(experiment, run_name=run.name).info.run_id

    def write_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        written = [Param(key, str(value)[:PARAM_LENGTH]) for key, value in params.items()]
        for start in range(0, len(written), PARAMS_AT_ONCE):
            self._client.log_batch(self.id, params=written[start : start + PARAMS_AT_ONCE])

    def write_metrics(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def write_image(self, name: str, pixels: NDArray[np.uint8], step: int) -> None:
        self._client.log_image(self.id, pixels, artifact_file=f"{name}.png")

    def write_table(self, name: str, table: Table, step: int) -> None:
        self._client.log_text(self.id, table.as_markdown(), f"{name}.md")

    def close(self, done: bool) -> None:
        self._client.set_terminated(self.id, "FINISHED" if done else "KILLED")


TOOL = LogTool("mlflow", "mlflow", MlflowLog)
