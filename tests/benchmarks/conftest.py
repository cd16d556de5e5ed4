"""Shared by the tests of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import Tiny

from compress.pipeline.events import RunEvents
from compress.recipe.load import load_recipe

BUDGET = 100_000
WIDE = """
import tinynets


def student(num_classes):
    return tinynets._net(72, num_classes)
"""


@pytest.fixture(autouse=True)
def scripts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the benchmarks importable, as they are when run.

    Tests work in the folder of the custom networks.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.chdir(tiny.root)


@pytest.fixture(scope="module")
def recipe(tiny: Tiny) -> Path:
    (tiny.root / "widenets.py").write_text(WIDE)
    return tiny.variant("wide.toml", ("tinynets:student", "widenets:student"))


@pytest.fixture
def setting(recipe: Path, tmp_path: Path) -> Any:
    """Our run, and the setting that rows use."""
    from setting import lay_out

    loaded = load_recipe(str(recipe), {"budget": BUDGET})
    return lay_out(loaded, tmp_path / "run", tmp_path / "logits_cache", RunEvents())
