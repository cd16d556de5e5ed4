"""docs/python.md and the examples of the public functions, as they are run by a reader."""

from __future__ import annotations

import doctest
import inspect
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from code_blocks import read_blocks
from tiny import Compress, enter

import compress

PAGE = Path(__file__).parent.parent / "docs/python.md"


def run_page(words: list[str], *place: Any) -> None:
    """Stand in for `command_line`."""
    enter(*place)
    runpy.run_path(words[0], run_name="__main__")


@pytest.mark.slow
def test_the_blocks_of_the_page_run_in_order(run: Compress, tmp_path: Path) -> None:
    blocks = [block.text for block in read_blocks(PAGE, "python")]
    assert len(blocks) >= 7
    (tmp_path / "page.py").write_text("\n".join(blocks))
    shown = run(tmp_path / "page.py", target=run_page).out
    assert "student differs" in shown and "vertical" in shown


# The others need more than seconds, or a trained network of the reader's.
RUNNABLE = ("load", "predict", "prune", "save", "summarize")


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_example_of_a_public_function_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("weights", "docs"):
        (tmp_path / folder).symlink_to(PAGE.parent.parent / folder)
    names = {"compress": compress, "torch": torch, "np": np, "torchvision": torchvision}
    function = getattr(compress, name)
    module = sys.modules[function.__module__]
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    found = finder.find(function, name, globs=vars(module) | names)
    assert found[0].examples, f"{name} has no example"
    report: list[str] = []
    for test in found:
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", sorted(set(compress.__all__) - {"UserError"}))
def test_every_public_function_has_an_example(name: str) -> None:
    assert "Example:" in (inspect.getdoc(getattr(compress, name)) or "")
