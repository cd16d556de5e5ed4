"""Shared by the tests of the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Tiny


@pytest.fixture(autouse=True)
def scripts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the benchmarks importable, as they are when run.

    Tests work in the folder of the custom networks.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.chdir(tiny.root)
