"""The learning curves of a run, as its stages wrote them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compress.pipeline.history import KEYS, read_history
from compress.pipeline.manifest import StageResult
from compress.training.events import named_losses

# Epochs of a curve: of more, only so many could be told apart.
MOST_POINTS = 300


@dataclass(frozen=True)
class Curve:
    """The metrics of a training stage, by epoch.

    Args:
        stage: its name.
        epochs: the number of each epoch, from 1.
        total: the loss.
        losses: the named losses whose sum it is.
        val: validation accuracy, 0 to 1.
        seconds: since the stage began.
    """

    stage: str
    epochs: tuple[float, ...]
    total: tuple[float, ...]
    losses: dict[str, tuple[float, ...]]
    val: tuple[float, ...]
    seconds: tuple[float, ...]


def read_curves(path: Path, results: Sequence[StageResult]) -> list[Curve]:
    """Read the curves of the stages in the run directory `path` that have any.

    Long ones are thinned evenly; their last epoch stays.

    Raises:
        UserError: a file of metrics is damaged.
    """
    curves = []
    for result in results:
        file = (path / result.checkpoint).with_suffix(".jsonl")
        if lines := read_history(file):
            curves.append(_make_curve(result.name, lines))
    return curves


def _make_curve(stage: str, lines: list[dict[str, float]]) -> Curve:
    lines = [*lines[: -1 : math.ceil(len(lines) / MOST_POINTS)], lines[-1]]
    names = dict.fromkeys(key for line in lines for key in named_losses(line))
    missing = float("nan")
    columns = {name: tuple(line.get(name, missing) for line in lines) for name in (*KEYS, *names)}
    return Curve(
        stage=stage,
        epochs=columns["epoch"],
        total=columns["loss"],
        losses={name: columns[name] for name in names},
        val=columns["val"],
        seconds=columns["seconds"],
    )
