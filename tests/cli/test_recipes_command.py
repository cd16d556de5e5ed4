"""`recipes` and `stages`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import Compress

from compress.cli.main import main
from compress.recipe.load import load_recipe, shipped_recipes


def test_recipes_are_listed_with_their_titles() -> None:
    lines = CliRunner().invoke(main, ["recipes"]).output.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    for line in lines:
        name, title = line.split(maxsplit=1)
        assert title == load_recipe(name).title


def test_a_copy_of_a_shown_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    shown = CliRunner().invoke(main, ["recipes", "--show", "default"])
    assert shown.exit_code == 0 and shown.output == shipped_recipes()["default"].read_text()
    (tmp_path / "mine.toml").write_text(shown.output)
    assert load_recipe(str(tmp_path / "mine.toml")) == load_recipe("default")


def test_the_schema_describes_every_key() -> None:
    shown = CliRunner().invoke(main, ["recipes", "--schema"])
    schema = json.loads(shown.output)
    assert {"data", "budget", "stages"} <= schema["properties"].keys()
    assert set(schema["required"]) == {"teacher", "student", "stages"}
    assert all(key.get("description") for key in schema["properties"].values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--show", "defualt"], r"'defualt'.*'default'.*known: .*taught"),
        (["--show", "default", "--schema"], r"--show and --schema"),
    ],
)
def test_recipes_refuses(words: list[str], message: str) -> None:
    refused = CliRunner().invoke(main, ["recipes", *words])
    assert refused.exit_code == 2 and refused.stdout == ""
    assert re.match(f"error: .*{message}.*\n$", refused.stderr)


def test_stages_shows_the_table_of_a_run(run: Compress, finished: Path) -> None:
    shown = run("stages", finished).out
    entries = json.loads((finished / "run.json").read_text())["stages"]
    kinds = r"│ (teach|distill|prune|finetune)"
    rows = [line for line in shown.splitlines() if re.match(kinds, line)]
    for row, entry in zip(rows, entries, strict=True):
        test, params = f"{100 * entry['test']:.2f}", f"{entry['params']:,}"
        for cell in (entry["name"], entry["network"], params, test):
            assert f" {cell} " in row


@pytest.mark.parametrize(
    ("manifest", "words"), [(None, "run.json"), ('{"stages": [{}]}', "run.json: damaged")]
)
def test_a_directory_without_a_run_is_refused(
    tmp_path: Path, manifest: str | None, words: str
) -> None:
    if manifest is not None:
        (tmp_path / "run.json").write_text(manifest)
    refused = CliRunner().invoke(main, ["stages", str(tmp_path)])
    assert refused.exit_code == 2 and words in refused.stderr and refused.stderr.count("\n") == 1
