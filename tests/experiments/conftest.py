"""A small experiment, and its finished trials."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_experiment import GRID, PAIR
from tiny import Tiny

from compress.experiments.experiment import run_experiment
from compress.experiments.trial import Trial


@pytest.fixture(scope="session")
def folder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe of two stages, and an experiment with it."""
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "pair.toml").write_text(PAIR.format(data=tiny.data))
    (folder / "grid.toml").write_text(GRID)
    return folder


@pytest.fixture(scope="session")
def trials(folder: Path) -> list[Trial]:
    """The trials of the grid, run without a disturbance."""
    return run_experiment(folder / "grid.toml", out=folder / "runs")
