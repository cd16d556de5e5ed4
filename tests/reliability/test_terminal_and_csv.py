"""Names from files reach the terminal and tables as text; outputs replace no other file."""

from __future__ import annotations

import csv
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tiny import CLASSES, Tiny

import compress
from compress.cli.main import main
from compress.cli.terminal import Terminal
from compress.deployment.labels import find_labelled_images
from compress.models import checkpoint
from compress.reporting.tables import Table
from compress.runtime.text import safe_block, safe_cell, safe_line

# Clears the screen, sets the title, rings, goes back, turns the direction round.
ATTACK = "\x1b[2J\x1b]0;owned\x07\r\x9b1A\u202e"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def hostile(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file whose names are attacks: a formula, escape codes, and a line of its own."""
    names = ("=cmd|' /C calc'!A0", f"cat{ATTACK}", "dog\nerror: all is lost", "@SUM(1)")
    path = tmp_path_factory.mktemp("hostile") / "model.pth"
    loaded = replace(checkpoint.load(weights), classes=names, data=f"data{ATTACK}")
    checkpoint.save(loaded, path)
    return path


@pytest.fixture
def image(tiny: Tiny, tmp_path: Path) -> Path:
    """An image whose file name is an attack."""
    path = tmp_path / f"=1+1{ATTACK}\nerror: no.png"
    shutil.copy(tiny.data / "test" / "blob" / "000.png", path)
    return path


def test_names_in_files_do_not_control_the_terminal(hostile: Path, image: Path) -> None:
    broken = image.with_name(f"broken{ATTACK}\n.png")
    broken.write_text("no image")
    undecodable = os.fsdecode(os.fsencode(str(image.parent)) + b"/\xff\x1b.png")
    for words, code in (
        (("predict", "-w", hostile, image), 0),
        (("predict", "-w", hostile, broken, undecodable, image), 1),
        (("predict", "-w", hostile.with_name(f"none{ATTACK}\n.pth"), image), 2),
        (("predict", "-w", hostile, f"--{ATTACK}"), 2),
        (("predict", "-w", hostile), 2),
        (("summary", "-w", hostile), 0),
        (("run", image.with_suffix(".toml")), 2),
        (("stages", image.parent), 2),
    ):
        done = invoke(*words)
        assert done.exit_code == code, done.output
        assert not UNSAFE.search(done.output), words
        assert "\nerror: all is lost" not in done.output and "\nerror: no" not in done.output
        assert code != 2 or done.stderr.splitlines()[-1].lower().startswith("error: ")


def test_what_a_run_logs_does_not_control_the_terminal(tmp_path: Path) -> None:
    with (tmp_path / "screen").open("w+") as file:
        terminal = Terminal(Console(file=file, force_terminal=True, color_system=None))
        terminal.log(f"skipped folders: {ATTACK}")
        terminal.on_stage_start(1, 2, "teach", f"network {ATTACK}[bold]")
        terminal.show(Table([ATTACK], [[ATTACK]], footer=[ATTACK]))
        file.seek(0)
        shown = file.read()
    assert not re.search("[\x07\r\x9b\u202e]|\x1b\\[2J|\x1b\\]", shown)
    assert "[bold]" in shown


@given(st.text(st.characters()))
def test_a_safe_line_is_one_line_that_keeps_what_is_harmless(text: str) -> None:
    line = safe_line(text)
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", line)
    assert safe_line(line) == line and line.encode().decode() == line
    assert safe_block(text).count("\n") == text.count("\n")
    if text.isprintable() and text.isascii():
        assert line == text


@given(st.text(), st.floats())
def test_a_cell_is_no_formula_and_numbers_stay(text: str, number: float) -> None:
    assert not safe_cell(text).startswith(tuple("=+-@\t\r\n")) or float(text) is not None
    assert safe_cell(text).removeprefix("'") == text.removeprefix("'")
    assert safe_cell(number) == str(number)


def test_tables_hold_no_formulas(
    hostile: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = image.with_name("table.csv")
    monkeypatch.chdir(image.parent)
    done = invoke("predict", "-w", hostile, "--top", 4, "--csv", table, image.name)
    assert done.exit_code == 0, done.output
    rows = list(csv.reader(table.open(newline="")))
    assert {row[2] for row in rows[1:]} >= {"'=cmd|' /C calc'!A0", "'@SUM(1)"}
    assert {row[0] for row in rows[1:]} == {f"'{image.name}"}
    assert all(float(row[3]) >= 0 for row in rows[1:])
    assert Table(["=a"], [["+1+1"], ["-1.5"]]).as_csv() == "'=a\r\n'+1+1\r\n-1.5\r\n"


@pytest.fixture
def private() -> Iterator[None]:
    """Let new files be readable by their owner alone."""
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.slow
def test_files_are_as_private_as_the_umask_says(
    tiny: Tiny, private: None, image: Path, weights: Path
) -> None:
    out = image.parent / "run"
    compress.run(str(tiny.recipe), out=out, epochs=1)
    invoke("predict", "-w", weights, "--csv", out / "table.csv", image)
    invoke("prune", "-w", weights, "--budget", "50%", "--out", out / "pruned.pth")
    files = [path for path in out.rglob("*") if path.is_file()]
    assert {"run.json", "model.pth", "table.csv", "pruned.pth"} <= {file.name for file in files}
    assert {file.name: oct(stat.S_IMODE(file.stat().st_mode)) for file in files} == dict.fromkeys(
        (file.name for file in files), "0o600"
    )


def test_a_table_replaces_only_a_table(weights: Path, image: Path) -> None:
    folder, words = image.parent, ("predict", "-w", weights, image, "--csv")
    link, copy = folder / "link.csv", folder / "weights.csv"
    link.symlink_to(image)
    shutil.copy(weights, copy)
    (folder / "hard.csv").hardlink_to(image)
    (folder / "mine.csv").write_text("path,label\n")
    (folder / "pipe.csv").symlink_to("/dev/null")
    taken = [link, copy, folder / "hard.csv", folder / "mine.csv", folder / "pipe.csv", folder]
    before = {path: path.read_bytes() for path in folder.iterdir() if path.name != "pipe.csv"}
    for path in taken:
        refused = invoke(*words, path)
        assert refused.exit_code == 2 and str(path) in refused.stderr, refused.output
    assert {path: path.read_bytes() for path in before} == before
    fresh, through = folder / "fresh.csv", folder / "through.csv"
    through.symlink_to(fresh)
    for path in (fresh, fresh, through):
        assert invoke(*words, path).exit_code == 0
    assert through.is_symlink() and len(list(csv.reader(fresh.open(newline="")))) == 1 + 3


def test_adopt_does_not_replace_what_it_reads(weights: Path, tmp_path: Path, tiny: Tiny) -> None:
    copy, link = tmp_path / "mine.pt", tmp_path / "link.pt"
    shutil.copy(weights, copy)
    link.symlink_to(copy)
    words = ("adopt", copy, "--network", "resnet18", "--data", f"folder:{tiny.data}", "--force")
    assert "choose another --out" in invoke(*words, "--out", link).stderr
    assert copy.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "-w", "{weights}", ""),
        ("predict", "-w", ""),
        ("run", "--out", ""),
        ("run", "--out="),
        ("summary", "--weights=", "x"),
        ("adopt", ""),
        ("experiment", ""),
    ],
)
def test_an_empty_argument_is_not_the_current_folder(
    words: tuple[str, ...], weights: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.data)
    refused = invoke(*(word.format(weights=weights) for word in words))
    assert refused.exit_code == 2 and "empty" in refused.stderr
    assert sorted(path.name for path in tiny.data.iterdir()) == ["test", "train"]


def test_an_empty_pattern_finds_nothing(
    weights: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.data)
    assert find_labelled_images(["", "."], CLASSES)[0] == ("", None)
    [found] = compress.predict(weights, "")
    assert found.error and found.top == ()
