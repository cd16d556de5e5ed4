"""The class of all commands: errors of the user are one line, and exit codes tell them apart."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from tiny import Compress, Tiny

from compress.cli.command import Command
from compress.cli.main import main
from compress.cli.options import require_free
from compress.runtime.errors import UserError


def invoke(function: Callable[[], Any], **attributes: Any) -> tuple[int, str]:
    """Run `function` as a command, and return its exit code and what it wrote to stderr."""
    command = click.command("test", cls=Command, **attributes)(function)
    result = CliRunner().invoke(command)
    if isinstance(result.exception, Exception):
        raise result.exception
    assert result.stdout == ""
    return result.exit_code, result.stderr


def raises(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(("value", "code"), [(None, 0), (0, 0), (1, 1), (3, 3)])
def test_the_value_returned_is_the_exit_code(value: int | None, code: int) -> None:
    assert invoke(lambda: value) == (code, "")


def test_a_mistake_of_the_user_is_one_line_and_2() -> None:
    assert invoke(raises(UserError("budget: is missing"))) == (2, "error: budget: is missing\n")


def test_an_error_of_the_system_is_one_line_and_2() -> None:
    code, shown = invoke(raises(OSError(errno.ENOSPC, "No space left on device", "x.pth")))
    assert code == 2 and "No space left on device" in shown and "x.pth" in shown
    assert shown.startswith("error: ") and shown.count("\n") == 1


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(2**60),
        lambda: bytearray(2**62),
        raises(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")),
    ],
    ids=["cpu", "python", "gpu"],
)
def test_a_lack_of_memory_is_one_line_and_2(allocate: Callable[[], Any]) -> None:
    code, shown = invoke(allocate)
    assert code == 2 and shown.startswith("error: out of memory") and "batch_size" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("sizes differ"), ValueError("a fault"), KeyError(3)]
)
def test_an_error_of_the_program_is_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        invoke(raises(error))


def test_ctrl_c_is_one_line_and_130() -> None:
    assert invoke(raises(KeyboardInterrupt())) == (130, "stopped\n")
    code, shown = invoke(raises(KeyboardInterrupt()), resumes=True)
    assert (code, shown) == (
        130,
        "stopped; the same command resumes after the last finished epoch\n",
    )


def test_a_closed_pipe_is_left_to_click() -> None:
    assert invoke(raises(BrokenPipeError(errno.EPIPE, "Broken pipe"))) == (1, "")


@pytest.mark.parametrize(
    ("words", "called", "resumes"),
    [
        (["run"], "compress.recipe.load.load_recipe", True),
        (["sweep", "--budgets", "1k"], "compress.recipe.load.load_recipe", True),
        (["experiment", "x.toml"], "compress.experiments.experiment.load_experiment", True),
        (["recipes"], "compress.recipe.load.shipped_recipes", False),
        (["predict", "-w", "x.pth", "x.png"], "compress.cli.predict.require_file", False),
    ],
)
def test_commands_that_train_say_that_they_resume(
    monkeypatch: pytest.MonkeyPatch, words: list[str], called: str, resumes: bool
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(called, interrupt)
    ended = CliRunner().invoke(main, words)
    assert ended.exit_code == 130 and ("resumes" in ended.stderr) == resumes


@pytest.mark.parametrize(
    "words",
    [["run"], ["analyze", "-w", "none.pth"], ["prune", "-w", "none.pth", "--speedup", "2x"]],
)
def test_more_threads_than_cores_are_refused_at_once(words: list[str]) -> None:
    refused = CliRunner().invoke(main, [*words, "--threads", "4000"])
    assert refused.exit_code == 2 and "4000 threads" in refused.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["prune", "-w", "x.pth"],
        ["report", "runs/x"],
        ["card", "-w", "x.pth"],
        ["bench", "x"],
    ],
)
def test_a_dash_is_no_name_of_a_file(words: list[str]) -> None:
    refused = CliRunner().invoke(main, [*words, "--out", "-"])
    assert refused.exit_code == 2 and "'--out'" in refused.stderr and "'-'" in refused.stderr
    assert not Path("-").exists()


def test_a_file_that_exists_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "there.pth").touch()
    (tmp_path / "link.pth").symlink_to(tmp_path / "nowhere")
    for name in ("there.pth", "link.pth"):
        with pytest.raises(UserError, match=rf"{name}: already exists.*--out"):
            require_free(tmp_path / name)
    require_free(tmp_path / "free.pth")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.pth", "there.pth"]


FAULTY = """
import tinynets
import torch


def fail(module, inputs):
    # One image is a check before training; batches are training itself.
    if module.training and len(inputs[0]) > 16:
        {statement}


def teacher(num_classes):
    network = tinynets.teacher(num_classes)
    network.register_forward_pre_hook(fail)
    return network
"""


@pytest.mark.parametrize(
    ("name", "statement", "code", "pattern"),
    [
        ("hungry", "torch.empty(2**60)", 2, r"error: out of memory.*batch_size.*\n"),
        (
            "faulty",
            "raise RuntimeError('sizes differ')",
            1,
            r"Traceback[\s\S]*\nRuntimeError: sizes differ\n",
        ),
    ],
)
def test_a_training_that_fails(
    start: Compress,
    tiny: Tiny,
    tmp_path: Path,
    name: str,
    statement: str,
    code: int,
    pattern: str,
) -> None:
    (tiny.root / f"{name}.py").write_text(FAULTY.format(statement=statement))
    ended = start("run", tiny.recipe, "--teacher", f"{name}:teacher", "--out", tmp_path / "run")
    assert ended.wait() == code and re.search(pattern + r"\Z", ended.err)
    assert ("Traceback" in ended.err) == (code == 1)
