"""Blocks of README and docs are run as they stand, with a small run in place of the reader's."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from code_blocks import ROOT, find_pages, join_lines, read_blocks, read_commands
from tiny import Tiny

import compress
from compress.cli.main import main
from compress.cli.predict import predict
from compress.recipe.load import load_recipe

# Commands that are not run here, by how they start, and why. That they parse is tested anyway.
NOT_RUN = {
    "compress run": "takes hours; test_tutorial.py has two runs",
    "compress sweep": "takes hours; tests/experiments",
    "compress experiment": "takes hours; tests/experiments",
    "compress compare runs/modes": "compares runs of hours",
    "compress report runs/sweep": "needs a sweep; tests/experiments/test_report.py",
    "compress report runs/views": "needs an experiment; tests/experiments/test_report.py",
    "compress quantize": "takes minutes; test_tutorial.py has one",
    "compress bench": "takes minutes; test_tutorial.py has one",
    "compress analyze -w weights": "takes a minute; others are run",
    "compress prune -w trained.pth --speedup": "measures the machine; tests/pruning",
    "compress predict photos/ --weights runs/…": "labels pixels; tests/pipeline",
    "compress demo": "serves, or fetches a runtime; tests/demo",
    "compress to-grey": "needs a network of grey images; tests/models/test_grey.py",
    "compress adopt": "needs a network of another script; tests/pipeline/test_adopt.py",
    "compress predict -w other.onnx": "needs a file of another program; tests/deployment",
    "python benchmarks/": "takes hours",
    "python -m http.server": "serves until it is stopped",
    "python docs/icons.py": "downloads",
    "python -m docs.ensemble": "needs a network of hours; test_ensemble.py has others",
    "python -m venv": "sets up",
    ". ": "sets up",
    "pip install": "downloads",
    "pre-commit": "sets up",
    "apt-get": "downloads",
    "pytest": "runs this",
    "ruff": "checks the code",
    "mypy": "checks the code",
    "tensorboard": "serves until it is stopped",
}
# Pages and Python blocks that have a test of their own.
ELSEWHERE = ("tutorial.md", "python.md", "tracking.md")


@dataclass(frozen=True)
class World:
    """A folder with everything that the documentation names."""

    folder: Path
    result: Any


@pytest.fixture(scope="module")
def world(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COMPRESS_DATA", str(folder / "cache"))
        for name in ("docs", "weights"):
            Path(name).symlink_to(ROOT / name)
        Path("photos").symlink_to(tiny.data)
        shutil.copytree(tiny.data / "test", "new")
        train = {"optimizer": "adamw", "lr": 0.005, "epochs": 2}
        recipe = {
            "data": "folder:photos",
            "image_size": 16,
            "batch_size": 32,
            "teacher": {"name": "resnet10"},
            "student": {"name": "resnet10"},
            "stages": [
                {"kind": "distill", "method": "labels", **train},
                {"kind": "prune", "samples": 64},
                {"kind": "finetune", **train},
            ],
        }
        result = compress.run(recipe, budget="20k", out="runs/mine")
        for name in ("model", "trained", "a", "b"):
            shutil.copy("runs/mine/model.pth", f"{name}.pth")
        yield World(folder, result)


def documented_commands() -> dict[str, list[str]]:
    """Return the words of every command in the documentation, by its text, in order."""
    blocks = [block for page in find_pages() for block in read_blocks(page) if block.is_shell]
    lines = [line for block in blocks for line in join_lines(block.text)]
    return {" ".join(words): words for line in lines for words in read_commands(line)}


def expand(words: list[str]) -> list[str]:
    """Expand patterns of files, as a shell does."""
    return [
        each
        for word in words
        for each in (sorted(str(path) for path in Path().glob(word)) if "*" in word else [word])
    ]


def test_a_command_that_is_not_run_is_in_the_documentation() -> None:
    found = documented_commands()
    for start in NOT_RUN:
        assert any(text.startswith(start) for text in found), f"no command starts with {start!r}"


@pytest.mark.slow
def test_every_other_command_runs(world: World) -> None:
    ran = set()
    for text, words in documented_commands().items():
        if text.startswith(tuple(NOT_RUN)) or "icons" in text:
            continue
        assert words[0] in ("compress", "predict"), text
        command = main if words[0] == "compress" else predict
        done = CliRunner().invoke(command, expand(words[1:]))
        assert done.exit_code == 0, f"{text}\n{done.output}"
        ran.add(words[1])
    assert {"predict", "eval", "export", "report", "analyze", "prune", "compare", "card"} <= ran


def run_nothing(world: World) -> Callable[..., Any]:
    """Return a `compress.run` that checks its recipe and keys, and returns the small run."""
    arguments = inspect.signature(compress.run).parameters

    def run(recipe: str, **keys: Any) -> Any:
        load_recipe(recipe, {key: keys[key] for key in keys.keys() - arguments})
        return world.result

    return run


@pytest.mark.slow
def test_every_block_of_python_runs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compress.export("model.pth", "pt2")
    monkeypatch.setattr(compress, "run", run_nothing(world))
    evaluate, labels = compress.evaluate, np.arange(40) % 10
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    monkeypatch.setattr(compress, "evaluate", lambda file: evaluate(file, (images, labels)))
    ran = []
    for page in find_pages():
        for block in read_blocks(page, "python"):
            # README's lines without this package: tests/deployment/test_export.py.
            if page.name not in ELSEWHERE and "onnxruntime" not in block.text:
                exec(compile(block.text, str(block), "exec"), {})
                ran.append(page.name)
    assert {"README.md", "deployment.md", "evaluation.md", "recipes.md"} <= set(ran)
