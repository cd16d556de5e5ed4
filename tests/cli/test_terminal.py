"""The terminal: lines and bars of a run, at any width, and plain lines in a pipe."""

from __future__ import annotations

import io
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from tiny import Compress, Tiny, wait_for

from compress.cli.terminal import Terminal
from compress.cli.terminal_bars import SHORT
from compress.cli.terminal_lines import epoch_line, is_milestone, stage_lines
from compress.pipeline.run_dir import StageResult
from compress.reporting.tables import Table, stages_table

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
LONG = replace(RESULT, name="finetune 12", network="timm:mobilenetv3_small_100", epochs=80.5)


def make_terminal(
    tty: bool, width: int = 120, verbose: bool = False
) -> tuple[Terminal, io.StringIO]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=tty, width=width, _environ={"TERM": "xterm"})
    return Terminal(console, verbose), stream


def screen_of(text: str, columns: int) -> list[str]:
    """The lines that a terminal shows for what was written to it."""
    screen = pyte.HistoryScreen(columns, 60, history=5_000, ratio=1)
    pyte.Stream(screen).feed(text.replace("\r\n", "\n").replace("\n", "\r\n"))
    above = ["".join(line[x].data for x in range(columns)) for line in screen.history.top]
    return [line.rstrip() for line in [*above, *screen.display]]


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
    terminal.show(Table(["file"], [["name " * 60]], left=1))
    assert stream.getvalue().count("\n") == 1 + 5


@given(
    st.lists(st.text("abcdefgh-", min_size=1, max_size=9), min_size=1, max_size=40),
    st.integers(20, 120),
)
def test_a_terminal_breaks_lines_between_words(words: list[str], width: int) -> None:
    terminal, stream = make_terminal(tty=True, width=width)
    terminal.log(f"  {' '.join(words)}")
    assert stream.getvalue().split() == words
    assert all(len(line) <= width for line in stream.getvalue().splitlines())


def test_a_word_longer_than_a_line_is_left_whole() -> None:
    """So that a path can be copied."""
    terminal, stream = make_terminal(tty=True, width=20)
    path = "runs/" + "x" * 40
    terminal.log(f"restored from {path}")
    assert path in stream.getvalue().splitlines()[1]


def test_an_epoch_is_one_line_with_the_time_left() -> None:
    terminal, stream = make_terminal(tty=False)
    terminal.on_epoch_end(2.5, [{"epoch": 2.0, "loss": 1.234, "val": 0.5, "seconds": 100.0}])
    words = "epoch 2/2.5 loss 1.234 val 50.00 % 1:40 min, 25 s left"
    assert stream.getvalue().count("\n") == 1 and stream.getvalue().split() == words.split()


def test_half_an_epoch_is_not_a_whole_one() -> None:
    line = epoch_line(0.5, [{"epoch": 1.0, "loss": 1.0, "val": 0.5, "seconds": 100.0}])
    assert line.startswith("epoch 0.5/0.5 ") and line.endswith("1:40 min, 0 s left")


@given(st.floats(0.1, 300), st.integers(0, 300))
def test_at_most_ten_epochs_of_a_stage_are_shown_in_a_file(epochs: float, extra: int) -> None:
    count = int(epochs) + 1
    history = [{"epoch": float(epoch)} for epoch in range(1, count + 1)]
    shown = [n for n in range(1, count + 1) if is_milestone(epochs, history[:n])]
    assert 1 <= len(shown) <= 11 and shown[-1] == count


def test_a_terminal_shows_epochs_and_layers_if_it_is_asked_to() -> None:
    for verbose in (False, True):
        terminal, stream = make_terminal(tty=True, verbose=verbose)
        terminal.on_epoch_end(2, [{"epoch": 1.0, "loss": 1.2, "val": 0.5, "seconds": 9.0}])
        terminal.on_stage_end(RESULT, None, "Total params: 4,000,000")
        assert ("epoch 1/2" in stream.getvalue()) == verbose
        assert ("Total params" in stream.getvalue()) == verbose


def test_a_cut_is_two_lines_of_what_it_changed() -> None:
    before = replace(RESULT, name="distill", params=8_000_000, macs=173_120_000, val=0.8132)
    cost, val = stage_lines(RESULT, before)
    for words in ("8,000,000 → 4,000,000 parameters", "173.12 M → 86.56 M", "-50.0 %"):
        assert words in cost
    assert val == "val 81.32 → 80.72 % (-0.60 points), 14 s"


def test_training_is_one_line_and_another_image_size_no_saving() -> None:
    [line] = stage_lines(replace(RESULT, val=0.9), RESULT)
    assert "parameters" not in line and "80.72 → 90.00 %" in line
    other = replace(RESULT, params=2_000_000, macs=90_000_000, image_size=28)
    cost, _ = stage_lines(other, RESULT)
    assert "90.00 M multiply-adds at 28 px" in cost and "+" not in cost


def test_another_network_is_not_a_change_of_the_one_before() -> None:
    for before in (None, replace(RESULT, network="resnet50")):
        cost, val = stage_lines(RESULT, before)
        assert "→" not in cost + val and "4,000,000 parameters" in cost and "at 14 px" in cost
    assert " px" not in next(stage_lines(replace(RESULT, image_size=None), None))


def test_progress_is_a_bar_in_a_terminal_and_nothing_in_a_pipe() -> None:
    for tty in (False, True):
        terminal, stream = make_terminal(tty)
        assert [*terminal.progress(iter([1, 2, 3]), 3, "epoch 1/3")] == [1, 2, 3]
        assert ("epoch 1/3" in stream.getvalue()) == tty


def test_the_bar_of_a_run_counts_stages_as_their_headings_do() -> None:
    terminal, stream = make_terminal(tty=True, width=120)
    terminal.bars.start_run((1.0, 2.0), None, 0)
    terminal.on_stage_start(2, 3, "distill", "resnet10")
    for _ in terminal.progress(range(2), 2, "epoch 1/1"):
        pass
    assert "2/3 distill" in stream.getvalue() and "stage 2/3" in stream.getvalue()


@pytest.mark.parametrize("reason", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_no_bar(reason: type[BaseException]) -> None:
    terminal, stream = make_terminal(tty=True, width=80)
    with pytest.raises(reason), terminal:
        terminal.on_stage_start(1, 2, "teach", "resnet10")
        terminal.on_train_start(3, 30, 0)
        # Referred to, so that it is not closed when the exception passes.
        items = terminal.progress(iter(range(10)), 10, "epoch 1/3")
        for _ in items:
            raise reason
    terminal.show("stopped")
    shown = [line for line in screen_of(stream.getvalue(), 80) if line]
    assert shown == ["1/2 teach: resnet10", "stopped"]


# Codes that choose a colour.
COLORS = re.compile(r"\x1b\[(\d+;)*(3|4|9|10)[0-8][;m]")

TABLES: dict[str, Callable[[], Table]] = {
    "stages": lambda: stages_table([RESULT, LONG], seconds=3723),
    "files": lambda: Table(
        ["file", "network", "parameters", "test %"],
        [["runs/a/model.pth", "resnet18 and more words that may be wrapped", "99,580", "94.89"]],
        left=2,
    ),
}


@pytest.mark.parametrize("columns", [120, 80, 60, 40])
@pytest.mark.parametrize("name", TABLES)
def test_tables_fit_and_break_no_word(name: str, columns: int) -> None:
    terminal, stream = make_terminal(tty=True, width=columns)
    table = TABLES[name]()
    terminal.show(table)
    plain = Text.from_ansi(stream.getvalue()).plain
    assert all(len(line) <= columns for line in plain.splitlines())
    text = " ".join(re.sub("[│┃]", " ", plain).split())
    known = {
        word
        for row in (table.headings, *table.rows, table.footer or [])
        for cell in row
        for word in cell.split()
    } | {"stages"}
    assert {word for word in text.split() if not set(word) & set("┏━┡└├┌")} <= known
    for cell in ("prune 1", "4,000,000") if name == "stages" else ("99,580", "94.89"):
        assert cell in text


@pytest.mark.parametrize("columns", [120, 80, 60, 40])
def test_a_real_terminal_shows_the_stages(run: Compress, finished: Path, columns: int) -> None:
    shown = run("stages", finished, tty=True, columns=columns, env={"TERM": "xterm"})
    wait_for(lambda: "┘" in shown.out)
    lines = [line for line in screen_of(shown.screen, columns) if line]
    assert len({len(line) for line in lines[1:]}) == 1 and len(lines[1]) <= columns
    assert sum("finetune 2" in line for line in lines) == 1
    assert (" 16 px " in shown.out) == (columns == 120)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [120, 80, 60, 40])
def test_a_run_on_a_real_terminal(run: Compress, tiny: Tiny, tmp_path: Path, columns: int) -> None:
    env = {"TERM": "xterm-256color"} | ({"NO_COLOR": "1"} if columns == 60 else {})
    words = ("run", tiny.recipe, "--out", tmp_path / "run", "--epochs", 1)
    shown = run(*words, tty=True, columns=columns, env=env)
    wait_for(lambda: "model.pth" in shown.out.rsplit("┘", 1)[-1])
    # Colours are those of bars.
    assert bool(COLORS.search(shown.out)) == ("NO_COLOR" not in env and columns >= SHORT)
    lines = screen_of(shown.screen, columns)
    text = " ".join(" ".join(lines).split())
    for words_of_header in (
        "198 training, 22 validation and 80 test images of 16×16",
        "4, of 49 (stripes) to 50 (blob) training images",
        "networks tinynets:teacher → tinynets:student",
        "budget 3000 parameters",
    ):
        assert words_of_header in text
    assert "stages teach, distill, prune 1" in text and ", test device" in text
    # Bars are gone, and neither epochs nor tables of layers are left.
    assert not any(word in text for word in ("images/s", "epoch 1/1", "in all"))
    for number, name in enumerate(("teach", "distill", "prune 1"), start=1):
        at = lines.index(next(line for line in lines if line.startswith(f"{number}/7 {name}:")))
        after = next(n for n, line in enumerate(lines) if line.startswith(f"{number + 1}/7"))
        assert after - at <= (6 if columns >= 80 else 10)


@pytest.mark.slow
@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": "xterm"}])
def test_ctrl_c_has_a_line_of_its_own(
    start: Compress, tiny: Tiny, tmp_path: Path, env: dict[str, str]
) -> None:
    recipe = tiny.variant("long.toml", ("epochs = 3\noptimizer", "epochs = 900\noptimizer"))
    command = start("run", recipe, "--out", tmp_path / "run", tty=True, both=True, env=env)
    wait_for(lambda: (tmp_path / "run/stages/01-teach.jsonl").exists())
    command.press("\x03")
    wait_for(lambda: "^C" in command.out)
    command.send(signal.SIGINT)
    assert command.wait() == 130
    assert "\x1b" not in command.out or env["TERM"] != "dumb"
    wait_for(lambda: "stopped" in command.out)
    lines = [line for line in screen_of(command.screen, 80) if line]
    assert lines[-1].startswith("stopped; ")
