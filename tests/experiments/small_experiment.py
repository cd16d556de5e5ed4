"""A recipe of two stages and an experiment with it, as text; and what its runs leave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.experiments.trial import Trial

PAIR = """
data = "folder:{data}"
image_size = 16
budget = "1M"
batch_size = 32
[teacher]
name = "tinynets:teacher"
[student]
name = "tinynets:student"
[[stages]]
kind = "teach"
epochs = 2
optimizer = "adamw"
lr = 5e-3
[[stages]]
kind = "distill"
epochs = 2
optimizer = "adamw"
lr = 5e-3
"""
GRID = """
recipe = "pair.toml"
seeds = 2
[keys]
max_images = 96
[grid]
data_fraction = [1.0, 0.4]
distill.alpha = [0.0, 0.9]
"""


def shares_trials(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs the finished trials: all of these run in one process."""
    return pytest.mark.slow(pytest.mark.xdist_group("experiment")(test))


def read_manifest(trial: Trial) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((trial.folder / "run.json").read_text())
    return manifest


def same_weights(one: Path, other: Path) -> bool:
    """Return True if two weights files hold the same tensors, bit by bit."""
    ours, theirs = (torch.load(f, weights_only=True)["state_dict"] for f in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def modification_times(folder: Path) -> dict[str, int]:
    """Return when each file in the run directories of `folder` was written."""
    files = (file for file in folder.glob("*/**/*") if file.name != ".lock")
    return {str(file): file.stat().st_mtime_ns for file in files}
