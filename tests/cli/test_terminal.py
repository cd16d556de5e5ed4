"""The terminal: lines and bars of a run, and plain lines in a pipe."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from compress.cli.terminal import WIDTH, Terminal
from compress.pipeline.run_dir import StageResult
from compress.reporting.tables import Table

RESULT = StageResult(
    "prune 1",
    "prune",
    "resnet18",
    4_000_000,
    86_560_000,
    val=0.8072,
    seconds=14,
    checkpoint="",
    image_size=14,
)


def make_terminal(tty: bool) -> tuple[Terminal, io.StringIO]:
    stream = io.StringIO()
    return Terminal(Console(file=stream, force_terminal=tty, width=WIDTH)), stream


def test_text_with_brackets_is_not_markup() -> None:
    for tty in (False, True):
        terminal, stream = make_terminal(tty)
        terminal.log("restored from [bold]runs[/bold]")
        terminal.on_stage_start(1, 2, "teach", "[red]mine[/red]")
        terminal.show(Table(["a[b]"], [["[i]c"]]))
        for text in ("from [bold]runs[/bold]", "[red]mine[/red]", "a[b]", "[i]c"):
            assert text in stream.getvalue()
        assert ("\x1b" in stream.getvalue()) == tty


def test_a_long_line_is_not_wrapped_in_a_pipe() -> None:
    terminal, stream = make_terminal(tty=False)
    terminal.log("word " * 60)
    assert stream.getvalue().count("\n") == 1


def test_an_epoch_is_one_line_with_the_time_left() -> None:
    terminal, stream = make_terminal(tty=False)
    terminal.on_epoch_end(2.5, [{"epoch": 2.0, "loss": 1.234, "val": 0.5, "seconds": 100.0}])
    words = "epoch 2/3 loss 1.234 val 50.00 % 1:40 min, 25 s left"
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().split() == words.split()


def test_a_stage_ends_with_its_cost_and_the_change() -> None:
    terminal, stream = make_terminal(tty=False)
    before = replace(RESULT, name="distill", params=8_000_000, macs=173_120_000, val=0.8132)
    terminal.on_stage_end(RESULT, before, "Total params: 4,000,000")
    table, line = stream.getvalue().splitlines()
    assert table == "Total params: 4,000,000"
    after, _, change = line.partition("(from ")
    for words in ("prune 1: 4,000,000 parameters, 86.56 M", "at 14 px", "val 80.72 %"):
        assert words in after
    for words in ("8,000,000 parameters", "-50.0%, -50.0%", "-0.60 points", "14 s"):
        assert words in change


def test_the_first_stage_has_nothing_before_it() -> None:
    terminal, stream = make_terminal(tty=False)
    terminal.on_stage_end(replace(RESULT, image_size=None), None, "")
    assert "prune 1: " in stream.getvalue()
    assert "from" not in stream.getvalue() and " px" not in stream.getvalue()


def test_progress_is_a_bar_in_a_terminal_and_nothing_in_a_pipe() -> None:
    for tty in (False, True):
        terminal, stream = make_terminal(tty)
        assert [*terminal.progress(iter([1, 2, 3]), 3, "epoch 1/3")] == [1, 2, 3]
        assert ("epoch 1/3" in stream.getvalue()) == tty
