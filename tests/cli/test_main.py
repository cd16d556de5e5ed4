"""The group of commands: help, mistakes that need no torch, and `python -m compress`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from commands import ROOT, run_python
from tiny import Tiny

from compress.cli.main import main


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(command: list[str], flag: str) -> None:
    shown = CliRunner().invoke(main, [*command, flag])
    assert shown.exit_code == 0 and shown.output.startswith("Usage:") and "\x1b" not in shown.output


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["nonsense"], "'nonsense'"),
        (["--nonsense"], "--nonsense"),
        (["run", "--bugdet", "1k"], "--bugdet"),
        (["run", "one", "two"], "two"),
        (["run", ""], "empty"),
        (["run", "--budget="], "empty"),
        (["run", "--budget"], "--budget"),
        (["prune"], "--weights"),
        (["predict", "-w", "x", "--top", "0"], "--top"),
        (["eval", "-w", "x", "--split", "all"], "--split"),
        (["analyze", "-w", "x", "--remove", "200"], "--remove"),
    ],
)
def test_mistakes_of_usage_are_one_line(words: list[str], named: str) -> None:
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2 and refused.stdout == "" and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: ") and named in refused.stderr
    command = words[0] if words[0] in main.commands else ""
    assert "empty" in named or f" {command} --help".replace("  ", " ") in refused.stderr


def test_without_a_command_the_help_is_shown() -> None:
    assert "Usage:" in CliRunner().invoke(main, []).output


@pytest.mark.parametrize("command", main.commands.values(), ids=main.commands)
def test_every_option_has_a_help_text(command: click.Command) -> None:
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert re.fullmatch(r".*[^.]\.", command.get_short_help_str())


def test_help_and_mistakes_do_not_wait_for_torch(tiny: Tiny) -> None:
    misspelled = tiny.variant("misspelled.toml", ("ema = 0.9", 'method = "fitnet"'))
    good = [
        ["--help"],
        ["run", "--help"],
        ["predict", "--help"],
        ["--version"],
        ["recipes"],
        ["recipes", "--show", "default"],
        ["recipes", "--schema"],
    ]
    wrong = [
        ["predict"],
        ["nonsense"],
        ["recipes", "--show", "defualt"],
        ["run", "defualt"],
        ["run", str(misspelled)],
        ["run", "--budget", "much"],
        ["run", "--stem", "tall"],
        ["run", str(tiny.recipe), "--max-images", "-3"],
        ["run", str(tiny.recipe), "--batch-size", "0"],
        ["run", "--data", "cifr10"],
        ["run", "--data", "folder:nowhere"],
        ["run", "--student", "none.pth"],
        ["run", "--teacher", "none.pth"],
        ["sweep", "--budgets", "1k,zz"],
        ["sweep", "--budgets", "1k,1000"],
        ["sweep", "--budgets", "1k", "--teacher", "none.pth"],
        ["experiment", "none.toml"],
        ["compare", "none.pth"],
        ["compare", __file__, "none.pth"],
        ["stages", "nowhere"],
        ["summary", "-w", "none.pth"],
        ["prune", "-w", __file__],
        ["prune", "-w", "x.pth", "--budget", "much"],
        ["prune", "-w", "none.pth", "--budget", "1k"],
        ["prune", "-w", __file__, "--budget", "1k", "--importance", "talyor"],
        ["prune", "-w", __file__, "--budget", "1k", "--out", __file__],
        ["adopt", "none.pth", "--network", "resnet18", "--data", "mnist"],
        ["adopt", __file__, "--network", "resnet18", "--data", "mnits"],
        ["predict", "-w", "none.pth", "x.png"],
        ["predict", "-w", __file__, "--json"],
        ["predict", "-w", __file__, "--data", "cifr10"],
    ]
    code = f"""
import sys
from compress.cli.main import main
for words in {good + wrong!r}:
    try:
        main(words)
    except SystemExit as end:
        print("exit", end.code)
    assert "torch" not in sys.modules, words
    assert "pydantic" not in sys.modules or "--help" not in words, words
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    codes = re.findall(r"^exit (\d+)$", done.stdout, re.MULTILINE)
    assert codes == ["0"] * len(good) + ["2"] * len(wrong)


def test_python_m_compress_is_the_same_program(tmp_path: Path) -> None:
    done = run_python("-m", "compress", "run", "nowhere.toml", folder=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: no recipe 'nowhere.toml'")
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert run_python("-m", "compress", "--help").stdout.startswith("Usage: compress ")


def test_a_reader_that_stops_reading_causes_no_traceback() -> None:
    """As with ``compress recipes --schema | head -1``."""
    command = f"{sys.executable} -m compress recipes --schema | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr


def test_no_tool_that_logs_is_imported_without_its_flag(tmp_path: Path) -> None:
    code = """
import sys
from compress.cli.terminal import Terminal, tracking
from compress.recipe.registry import LOGGERS
from compress.reporting.loggers.log_tool import get_tool

with tracking(Terminal(), ()):
    pass
get_tool("tensorboard")
[LOGGERS.load(name) for name in LOGGERS.names()]
heavy = {*LOGGERS.names(), "compress.reporting.loggers.tracking"}
print(sorted(heavy & sys.modules.keys()))
"""
    done = run_python("-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
