"""Commands and blocks of code in README and docs: what they name exists, and they run."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from code_blocks import ROOT, find_pages, join_lines, read_blocks, read_commands, read_spans

import compress.cli.run as training
from compress.cli.main import main
from compress.cli.predict import predict
from compress.recipe.budget import parse_descending
from compress.recipe.load import load_recipe, recipe_from_dict
from compress.runtime.plain_files import read_toml

PAGES = pytest.mark.parametrize("page", find_pages(), ids=lambda page: page.name)
# Blocks without a language that are neither of the shell nor names of files, by how they start.
NOT_CODE = ("path,label,split,group\n", '[project.entry-points."compress.methods"]\n')
# They stand for something of the reader's.
PLACEHOLDERS = ("DIRECTORY/run.json", "runs/bars/run.json")


def read_lines(page: Path) -> Iterator[list[str]]:
    """Yield the words of all commands of a page's blocks."""
    for block in read_blocks(page):
        if block.is_shell:
            for line in join_lines(block.text):
                yield from read_commands(line)


def parse(words: list[str], whole: bool = True) -> click.Context:
    """Parse a command as click does, and fail as it does.

    Args:
        whole: it may be run as it stands; else words in capitals stand for values, and what is
            required may be missing.
    """
    command: click.Command = predict
    rest = words[1:]
    if words[0] == "compress":
        ctx = main.make_context("compress", words[1:], resilient_parsing=True)
        if not (rest := [*ctx._protected_args, *ctx.args]):
            main.make_parser(ctx).parse_args(words[1:])
            return ctx
        _, found, rest = main.resolve_command(ctx, rest)
        assert found, f"{words}: no such command"
        command = found
    if whole:
        return command.make_context(command.name, rest)
    ctx = click.Context(command)
    values, left, _ = command.make_parser(ctx).parse_args(rest)
    assert not left, f"{words}: {left} is too much"
    for parameter in command.params:
        value = values.get(parameter.name)
        if isinstance(value, str) and not value.isupper():
            parameter.type_cast_value(ctx, value)
    return ctx


def check_values(ctx: click.Context) -> None:
    """Check a command's recipe, keys and files before it would take time."""
    values = ctx.params
    overrides = values.keys() - inspect.signature(training.run.callback).parameters
    keys = {name: values[name] for name in overrides - {"budgets", "file"}}
    if ctx.command is training.run and values["recipe"] not in PLACEHOLDERS:
        load_recipe(values["recipe"], keys)
    elif ctx.command is training.sweep:
        parse_descending(values["budgets"].split(","))
        load_recipe(values["recipe"], keys)
    elif ctx.command is training.experiment:
        assert values["file"].is_file()


def check_script(words: list[str]) -> None:
    """Check that a script of this repository has the options that it is called with."""
    script = (ROOT / words[1]).read_text(encoding="utf-8")
    for option in (word for word in words if word.startswith("--")):
        # A name may be half of a switch, as "--compile/--no-compile".
        assert re.search(f'["/]{option}["/]', script), f"{words[1]} has no {option}"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository's files, and README's recipe as mine.toml."""
    for name in ("docs", "weights", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "mine.toml").write_text(read_blocks(ROOT / "README.md", "toml")[0].text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@PAGES
def test_every_command_in_a_block_parses(page: Path, repository: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for words in read_lines(page):
        if words[0] in ("compress", "predict"):
            check_values(parse(words))
        elif words[0] == "python" and words[1] != "-m":
            check_script(words)
        for named in re.findall(r"(?:compress|\.)\[(.*?)\]", " ".join(words)):
            assert set(named.split(",")) <= extras["optional-dependencies"].keys()


@PAGES
def test_every_command_between_backticks_parses(page: Path, repository: Path) -> None:
    for span in read_spans(page):
        [words] = read_commands(span)
        if words[0] == "python":
            check_script(words)
        else:
            parse(words, whole=False)


@PAGES
def test_a_block_is_of_a_known_kind(page: Path) -> None:
    for block in read_blocks(page):
        is_code = block.is_shell or block.language in ("python", "toml")
        names_files = "/" in block.text.split()[0]
        known = is_code or names_files or block.text.startswith(NOT_CODE)
        assert known, f"{block}: of no known kind; is its first word a program in code_blocks.py?"


@pytest.mark.parametrize(
    "line",
    [
        "compress rum --budget 100k",
        "compress run --bugdet 100k",
        "compress run --device tpu",
        "compress run a.toml b.toml",
        "compress eval -w model.pth --worst many",
        "predict -w model.pth --jsn",
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_a_wrong_command_does_not_parse(line: str, whole: bool) -> None:
    with pytest.raises((click.ClickException, AssertionError)):
        parse(line.split(), whole)


@PAGES
def test_recipes_and_parts_of_recipes_are_valid(page: Path, repository: Path) -> None:
    for block in read_blocks(page, "toml"):
        if "entry-points" in block.text:
            tomllib.loads(block.text)
            continue
        (repository / "part.toml").write_text(block.text)
        part = read_toml(repository / "part.toml")
        default = tomllib.loads((ROOT / "pipelines/default.toml").read_text())
        if "data" not in part:
            part = default | part | {"stages": [*default["stages"], *part["stages"]]}
        recipe_from_dict(part, str(block))
