"""A small recipe, as a file and as plain data."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

SMALL = """
budget = "100k"
[teacher]
name = "resnet18"
[student]
name = "resnet18"
[[stages]]
kind = "teach"
epochs = 20
[[stages]]
kind = "distill"
epochs = 5
[[stages]]
kind = "prune"
[[stages]]
kind = "finetune"
epochs = 30
compile = true
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def table() -> dict[str, Any]:
    return tomllib.loads(SMALL)
