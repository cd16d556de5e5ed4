"""`run` and `sweep`: flags are recipe keys, and the recipe is loaded once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from tiny import Tiny

from compress.cli.main import main
from compress.cli.run import run, sweep
from compress.pipeline.run import RunResult
from compress.recipe import load
from compress.recipe.model_spec import ModelSpec
from compress.recipe.schema import Recipe

# Arguments that are no keys of a recipe: they say how and where a run is carried out.
OF_THE_RUN = {
    *("recipe", "budgets", "out", "device", "quick", "fresh", "processes", "redo_from"),
    *("verbose", "tools"),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The calls of the pipeline, which does nothing here."""
    calls: list[dict[str, Any]] = []

    def record(recipe: Recipe, **keys: Any) -> RunResult:
        calls.append({"recipe": recipe} | keys)
        return RunResult(Path("model.pth"), ())

    monkeypatch.setattr("compress.pipeline.run.run", record)
    return calls


@pytest.mark.parametrize("command", [run, sweep], ids=["run", "sweep"])
def test_flags_are_named_as_the_keys_of_recipes(command: click.Command) -> None:
    keys = {field.name for field in fields(Recipe)} | {"stem", "builder", "pretrained"}
    names = {param.name for param in command.params} - OF_THE_RUN
    assert names <= keys and {"batch_size", "image_size", "max_images", "data_fraction"} <= names
    for param in command.params:
        if param.name in names:
            assert param.opts == [f"--{param.name.replace('_', '-')}"]


def test_flags_reach_the_recipe(tiny: Tiny, calls: list[dict[str, Any]]) -> None:
    flags = {
        "--budget": "2k",
        "--macs": "1M",
        "--file-size": "40KB",
        "--teacher": "vgg13",
        "--student": "resnet18",
        "--stem": "small",
        "--image-size": "32",
        "--max-images": "96",
        "--data-fraction": "0.5",
        "--batch-size": "16",
        "--minutes": "2.5",
        "--seed": "3",
    }
    words = [word for pair in flags.items() for word in pair]
    ended = CliRunner().invoke(main, ["run", str(tiny.recipe), "--out", "here", *words])
    assert ended.exit_code == 0, ended.output
    [call] = calls
    recipe = call["recipe"]
    assert (recipe.budget, recipe.macs, recipe.file_size) == ("2k", "1M", "40KB")
    assert (recipe.teacher, recipe.student) == (ModelSpec("vgg13"), ModelSpec("resnet18", "small"))
    assert (recipe.image_size, recipe.max_images, recipe.data_fraction) == (32, 96, 0.5)
    assert (recipe.batch_size, recipe.minutes, recipe.seed) == (16, 2.5, 3)
    assert (call["out"], call["device"]) == (Path("here"), "auto")
    assert (call["quick"], call["fresh"]) == (False, False)


@pytest.mark.parametrize(
    ("words", "directory"),
    [
        (["--budget", "100k"], "tiny-100k-seed0"),
        (["--macs", "5%", "--seed", "2", "--quick"], "tiny-quick-5pc-macs-seed2"),
    ],
)
def test_the_run_directory_is_named_after_the_recipe(
    tiny: Tiny, calls: list[dict[str, Any]], words: list[str], directory: str
) -> None:
    assert CliRunner().invoke(main, ["run", str(tiny.recipe), *words]).exit_code == 0
    assert calls[0]["out"] == Path("runs") / directory
    # The pipeline makes the recipe quick, not the command.
    assert calls[0]["quick"] == ("--quick" in words) and calls[0]["recipe"].max_images is None


def test_a_recipe_is_read_once(
    tiny: Tiny, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    read_toml = load.read_toml

    def record(path: Path) -> dict[str, Any]:
        read.append(path)
        return read_toml(path)

    monkeypatch.setattr(load, "read_toml", record)
    assert CliRunner().invoke(main, ["run", str(tiny.recipe)]).exit_code == 0
    assert read == [tiny.recipe] and len(calls) == 1
