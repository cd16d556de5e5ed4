"""Shared by the tests of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import Tiny

import compress
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
    few = ("batch_size = 32", "batch_size = 32\nmax_images = 128")
    return tiny.variant("wide.toml", ("tinynets:student", "widenets:student"), few)


@pytest.fixture(scope="module")
def our_run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ours") / "run"
    compress.run(str(recipe), out=out, budget=BUDGET)
    return out


@pytest.fixture
def setting(recipe: Path, our_run: Path, tmp_path: Path) -> Any:
    """Our run, and the setting that rows use."""
    from setting import lay_out

    loaded = load_recipe(str(recipe), {"budget": BUDGET})
    return lay_out(loaded, our_run, tmp_path / "logits_cache", RunEvents())
