"""Tables in every format, and the tables of runs, files and predictions."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console

from compress.deployment.predict import Prediction
from compress.pipeline.run_dir import StageResult
from compress.recipe.budget import Cost
from compress.reporting.compare import ModelReport
from compress.reporting.tables import (
    Table,
    classes_table,
    compare_table,
    predictions_table,
    stages_table,
)
from compress.reporting.units import format_duration, format_mean
from compress.training.classification import Classification

HOSTILE = '[bold]a|b[/bold] <i>&"quoted", :smile:'
TABLE = Table(
    ["name", "count"], [[HOSTILE, "1"], ["", "22"]], left=1, title="t<i>tle", footer=["all", "23"]
)


def show(table: Table, width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(table.as_rich())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│┃\n").replace("┃", "│").split("│")]


def test_a_terminal_shows_cells_as_they_are() -> None:
    lines = show(TABLE).splitlines()
    rows = [cells_of(line) for line in lines if line[:1] in "│┃"]
    assert rows == [["name", "count"], [HOSTILE, "1"], ["", "22"], ["all", "23"]]
    assert lines[0].strip() == "t<i>tle" and any(line.startswith("├") for line in lines)
    assert "│    22 │" in show(TABLE)


@pytest.mark.parametrize("width", [100, 8, None])
def test_a_terminal_shows_a_title_as_it_is(width: int | None) -> None:
    console = Console(width=100, file=io.StringIO(), force_terminal=True, no_color=True)
    table = Table(["a long heading", "b"], [["1" * 20, "2"]], title="[red]a [/b] \x1b[2J")
    console.print(table.as_rich(width))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "[red]" in shown and "[/b]" in shown and "\x1b[2J" not in shown


def test_a_narrow_terminal_folds_cells() -> None:
    shown = show(Table(["file"], [["abcdefghijkl" * 3]], left=1), width=20)
    assert "…" not in shown and shown.count("l") == 3 + 1


def test_markdown_has_one_line_a_row() -> None:
    lines = TABLE.as_markdown().splitlines()
    escaped = HOSTILE.replace("|", r"\|")
    assert lines[-5:] == [
        "| name | count |",
        "| -- | --: |",
        f"| {escaped} | 1 |",
        "|  | 22 |",
        "| all | 23 |",
    ]
    assert TABLE.title in lines[0] and lines[1] == ""


def test_csv_has_the_rows_as_data() -> None:
    rows = list(csv.reader(io.StringIO(TABLE.as_csv(), newline="")))
    assert rows == [["name", "count"], [HOSTILE, "1"], ["", "22"]]


def test_html_is_well_formed() -> None:
    table = ElementTree.fromstring(TABLE.as_html())
    rows = [[cell.text or "" for cell in row] for row in table.iter("tr")]
    assert rows == [["name", "count"], [HOSTILE, "1"], ["", "22"], ["all", "23"]]
    assert [child.tag for child in table] == ["caption", "thead", "tbody", "tfoot"]
    styles = [cell.get("style") for cell in next(iter(table.iter("tr")))]
    assert styles == ["text-align: left", "text-align: right"]
    plain = ElementTree.fromstring(Table(["a"], []).as_html())
    assert [child.tag for child in plain] == ["thead", "tbody"]


def make_result(**keys: object) -> StageResult:
    values = {
        "name": "teach",
        "kind": "teach",
        "network": "resnet50",
        "params": 23_528_522,
        "macs": 79_230_000,
        "val": 0.85284,
        "seconds": 183.0,
        "checkpoint": "stages/01-teach.pth",
    }
    return StageResult(**values | keys)  # type: ignore[arg-type]


def test_stages_have_a_row_each_and_a_total() -> None:
    prune = {"name": "prune 1", "image_size": 14, "seconds": 7, "test": 0.8}
    table = stages_table([make_result(epochs=0.5), make_result(**prune)])
    first, second = (dict(zip(table.headings, row, strict=True)) for row in table.rows)
    assert first == {
        "stage": "teach",
        "network": "resnet50",
        "images": "-",
        "parameters": "23,528,522",
        "multiply-adds": "79.23 M",
        "val %": "85.28",
        "test %": "-",
        "epochs": "0.5",
        "time": "3:03 min",
    }
    assert (second["images"], second["test %"], second["epochs"]) == ("14 px", "80.00", "-")
    assert table.footer and (table.footer[0], table.footer[-1]) == ("all", "3:10 min")
    assert len(table.footer) == len(table.headings)
    assert stages_table([]).footer is None


def test_compared_files_have_a_row_each() -> None:
    cost = Cost(params=50_000, macs=2_500_000, bytes=0)
    report = ModelReport(Path("a.pth"), "resnet18", True, cost, 210_400, 0.00212, 0.915)
    [row] = compare_table([report]).rows
    assert row == ["a.pth", "resnet18", "50,000 not zero", "2.50 M", "210 KB", "2.12 ms", "91.50"]


def test_an_unreadable_image_has_its_reason() -> None:
    good = Prediction("a.png", (("coat", 0.913), ("bag", 0.05)))
    bad = Prediction("b.png", (), error="cannot read the image")
    assert [*predictions_table([good, bad]).rows] == [
        ["a.png", "coat 91.3%, bag 5.0%"],
        ["b.png", "unreadable: cannot read the image"],
    ]


def test_classes_have_a_row_each_and_a_total() -> None:
    counts = torch.tensor([[3, 0, 0], [4, 2, 0]])
    table = classes_table(Classification(3), ["coat", "bag", "boot"], counts)
    assert [*table.rows] == [
        ["coat", "3", "4", "75.00%"],
        ["bag", "0", "2", "0.00%"],
        ["boot", "0", "0", "-"],
    ]
    assert table.footer == ["all", "3", "6", "50.00%"]
    nothing = classes_table(Classification(0), [], torch.zeros(2, 0, dtype=torch.int64))
    assert nothing.footer == ["all", "0", "0", "-"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00 min"),
        (185, "3:05 min"),
        (3599.6, "1:00:00 h"),
        (3723, "1:02:03 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_mean_has_the_sample_deviation() -> None:
    assert format_mean([0.90, 0.92]) == "91.00 ± 1.41"
    assert format_mean([0.9]) == "90.00"
