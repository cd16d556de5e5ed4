"""Tracking: a run's figures, images and tables, logged by tools such as TensorBoard.

A tracker receives the events of a run, as callbacks do. Everything that it logs has a step: one for
each epoch of each stage, and one for each stage's result. What has been logged is kept in the run
directory, so that a resumed run continues its log, and a finished stage that was not logged is made
up for.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchvision.utils import make_grid

from compress.pipeline.events import RunEvents
from compress.pipeline.history import read_history
from compress.pipeline.manifest import StageResult
from compress.pipeline.run_dir import LOGGED
from compress.pipeline.run_start import RunStart
from compress.reporting.loggers.log_tool import Log, LoggedRun, LogTool, get_tool
from compress.reporting.pages.widths import read_layers
from compress.reporting.tables import stages_table
from compress.runtime.errors import UserError, one_line
from compress.runtime.sealed_json import read_sealed, write_sealed

T = TypeVar("T")

# Images of a sample, and how many of them are in a row.
SAMPLE, ROW = 16, 4


def track(*names: str, warn: Callable[[str], None] = warnings.warn) -> list[Tracker]:
    """Return trackers that log a run, for ``callbacks=``.

    Args:
        names: ``tensorboard``, ``mlflow``, ``wandb`` or ``trackio``, each an extra of this package.
        warn: called with a line if a tool fails while a run is under way, which goes on without.

    Raises:
        UserError: there is no such tool, or it is not installed.

    Example:
        >>> compress.run("default", budget="100k", callbacks=compress.track("tensorboard"))
    """
    return [Tracker(get_tool(name), warn) for name in dict.fromkeys(names)]


class Tracker(RunEvents):
    """Logs the events of runs, one after another, by a tool.

    Use it as a context to tell the tool at its end that the run has been interrupted, if it has.
    """

    def __init__(self, tool: LogTool, warn: Callable[[str], None] = warnings.warn) -> None:
        self._tool, self._warn = tool, warn
        self._log: Log | None = None
        self._run: RunStart | None = None
        # Steps: the last one that is logged, and the last one before the present stage.
        self._logged, self._before = 0, 0
        self._stage, self._wants_sample = "", False

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *reason: object) -> None:
        self._close(done=False)

    def on_run_start(self, run: RunStart) -> None:
        self._close(done=False)
        kept = _read_logged(run.out).get(self._tool.name, {})
        known, step = str(kept.get("id", "")), int(kept.get("step", 0))
        try:
            self._log = self._tool.open(LoggedRun(run.out, run.out.name, known, step))
            if not known:
                self._log.write_params(dict(_flatten(run.recipe)))
        # A tool may raise anything.
        except Exception as error:
            remedy = f"; to begin a new log, remove {run.out / LOGGED}" if known else ""
            raise UserError(f"--log {self._tool.name}: {one_line(error)}{remedy}") from error
        self._run, self._logged, self._before = run, step, 0
        self._keep()
        for result in run.results:
            self._write_stage(result)

    def on_stage_start(self, number: int, total: int, name: str, about: str) -> None:
        self._stage = name.replace(" ", "-")

    def on_train_start(self, epochs: float, steps: int, done: int) -> None:
        self._wants_sample = not done and self._logged <= self._before

    def progress(self, items: Iterable[T], total: int, label: str) -> Iterable[T]:
        for item in items:
            images = getattr(item, "images", None)
            if self._wants_sample and images is not None:
                self._write_sample(images)
            yield item

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        self._write_epochs(self._stage, history)

    def on_stage_end(self, result: StageResult, before: StageResult | None, table: str) -> None:
        self._write_stage(result)

    def on_run_end(self, results: Sequence[StageResult], seconds: float) -> None:
        final, table = results[-1], stages_table(results, seconds)
        test = {f"test/{_slug(each)}": each.test for each in results if each.test is not None}
        figures = {f"final/{key}": value for key, value in _figures(final).items()}
        self._write(self._before + 1, test | figures | {"final/seconds": seconds})
        self._try(lambda log: log.write_table("stages", table, self._before + 1))
        self._close(done=True)

    def _write_stage(self, result: StageResult) -> None:
        """Log what is not logged yet of a finished stage: its epochs, its result and its widths."""
        assert self._run is not None
        file = self._run.out / result.checkpoint
        self._write_epochs(_slug(result), read_history(file.with_suffix(".jsonl")))
        step = self._before + math.ceil(result.epochs) + 1
        figures = {f"stage/{key}": value for key, value in _figures(result).items()}
        if step > self._logged and result.kind in ("distill", "prune"):
            layers = read_layers(file)
            figures |= {f"widths/{name}": float(width) for name, (width, _) in layers.items()}
        self._write(step, figures | {"stage/seconds": result.seconds})
        self._before = step

    def _write_epochs(self, stage: str, history: Iterable[Mapping[str, float]]) -> None:
        for metrics in history:
            values = {f"{stage}/{key}": value for key, value in metrics.items() if key != "epoch"}
            self._write(self._before + int(metrics["epoch"]), values)

    def _write_sample(self, images: Tensor) -> None:
        assert self._run is not None
        self._wants_sample = False
        pixels = _to_pixels(images[:SAMPLE], self._run.plan.data.mean, self._run.plan.data.std)
        name, step = f"{self._stage}/images", self._before + 1
        self._try(lambda log: log.write_image(name, pixels.numpy(), step))

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if step > self._logged:
            self._try(lambda log: log.write_metrics(values, step))
            self._logged = step
            self._keep()

    def _try(self, write: Callable[[Log], None]) -> None:
        """Write to the log; a tool that fails does not end the training."""
        if self._log is None:
            return
        try:
            write(self._log)
        # A tool may raise anything.
        except Exception as error:
            self._log = None
            self._warn(f"{self._tool.name}: not logged from here on ({one_line(error)})")

    def _keep(self) -> None:
        """Keep in the run directory what has been logged."""
        if self._run is None or self._log is None:
            return
        kept = _read_logged(self._run.out)
        kept[self._tool.name] = {"id": self._log.id, "step": self._logged}
        write_sealed(self._run.out / LOGGED, kept)

    def _close(self, done: bool) -> None:
        self._try(lambda log: log.close(done))
        self._log = self._run = None


def _slug(result: StageResult) -> str:
    return result.name.replace(" ", "-")


def _figures(result: StageResult) -> dict[str, float]:
    """Return the figures of a result, as run.json has them."""
    keys = ("params", "macs", "bytes", "val", "val_balanced", "test", "test_balanced")
    values = {key: getattr(result, key) for key in (*keys, "milliseconds")}
    return {key: value for key, value in values.items() if value is not None}


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the plain values in a recipe by dotted keys, as ``stages.2.epochs``."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flatten(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(each, Mapping) for each in value):
        for number, each in enumerate(value, start=1):
            yield from _flatten(each, f"{path}.{number}")
    elif value is not None:
        yield path, list(value) if isinstance(value, tuple) else value


def _read_logged(out: Path) -> dict[str, Any]:
    """Return what each tool has logged; a new log begins for one whose entry is damaged."""
    try:
        kept = read_sealed(out / LOGGED)
    except UserError:
        return {}
    entries = kept.items() if isinstance(kept, dict) else ()
    return {name: each for name, each in entries if _is_entry(each)}


def _is_entry(value: Any) -> bool:
    return isinstance(value, dict) and type(value.get("step")) is int and "id" in value


def _to_pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return normalized images (B, C, H, W) as one picture, uint8 (H, W, 3)."""
    images = images.detach().float().cpu()
    channels = images.shape[1]
    gain, shift = (torch.tensor(values[:channels])[:, None, None] for values in (std, mean))
    grid: Tensor = make_grid((images * gain + shift).clamp(0, 1), nrow=ROW)
    return (255 * grid).round().to(torch.uint8).permute(1, 2, 0).contiguous()
