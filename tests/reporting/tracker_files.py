"""Reads what MLflow, W&B and Trackio have written: the values of each metric, by its name."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny import wait_for


def read_mlflow(out: Path) -> dict[str, list[float]]:
    client = pytest.importorskip("mlflow").MlflowClient()
    experiment = client.get_experiment_by_name("compress")
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    return {
        name: [metric.value for metric in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def read_wandb(out: Path) -> dict[str, list[float]]:
    """Read the files of the offline runs, which `wandb sync` would put together by their id."""
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")

    def parse(file: Path) -> list[Any]:
        return [proto.Record.FromString(content) for content in read_leveldb_log(file)]

    def is_finished(file: Path) -> bool:
        return any(record.HasField("exit") for record in parse(file))

    found: dict[str, list[float]] = {}
    files = sorted(out.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1
    for file in files:
        # A process of wandb's own writes it, and may be a moment late.
        wait_for(partial(is_finished, file), seconds=30)
        for record in parse(file):
            for item in record.history.item:
                name = item.key or "/".join(item.nested_key)
                if isinstance(value := json.loads(item.value_json), float | int):
                    found.setdefault(name, []).append(value)
    return found


def read_leveldb_log(file: Path) -> list[bytes]:
    """Return the records of a file in LevelDB's log format, after W&B's header of seven bytes."""
    content, place, records, whole = file.read_bytes(), 7, [], b""
    while place + 7 < len(content):
        # No header spans the end of a block of 32 KiB.
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if place + 7 + length > len(content):
            # It is being written.
            break
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        # 1 is a whole record, 2 to 4 are its first, middle and last part.
        if kind in (1, 4):
            records.append(whole)
            whole = b""
    return records


def read_trackio(out: Path) -> dict[str, list[float]]:
    trackio = pytest.importorskip("trackio")
    project, storage = os.environ["TRACKIO_PROJECT"], trackio.SQLiteStorage
    [run] = storage.get_runs(project)
    lines = storage.get_logs(project, run)
    trackio.delete_project(project, force=True)
    found: dict[str, list[float]] = {}
    for line in sorted(lines, key=lambda line: line["step"]):
        for name, value in line.items():
            if isinstance(value, float | int):
                found.setdefault(name, []).append(value)
    return found


READERS = {"mlflow": read_mlflow, "wandb": read_wandb, "trackio": read_trackio}
