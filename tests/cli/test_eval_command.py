"""`eval`: tables for narrow terminals, JSON, CSV, and calibration in place."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console
from tiny import CLASSES, own_model

import compress
from compress.cli.evaluate import show_evaluation
from compress.cli.main import main
from compress.cli.terminal import Terminal
from compress.data.source import Pixels
from compress.reporting.metrics import Evaluation, SplitLogits, evaluate_logits


def run(*words: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["eval", *map(str, words)])
    assert done.exit_code == code, done.output
    return done


def draw_evaluation(classes: int) -> Evaluation:
    """An evaluation of random logits; long names, as of real classes."""
    random = torch.Generator().manual_seed(0)
    targets = torch.arange(2000) % classes
    logits = torch.randn(2000, classes, generator=random)
    logits[torch.arange(2000), targets] += 2
    names = tuple(f"class number {number}" for number in range(classes))
    pixels = Pixels(torch.zeros(2000, 1, 1, 1, dtype=torch.uint8), targets)
    return evaluate_logits(SplitLogits("made up", "test", names, logits, targets, pixels))


@pytest.mark.parametrize(
    ("width", "classes", "matrix"),
    [(60, 10, False), (80, 10, True), (60, 4, True), (80, 100, False)],
)
def test_tables_fit_the_terminal(width: int, classes: int, matrix: bool) -> None:
    found, screen = draw_evaluation(classes), io.StringIO()
    console = Console(width=width, force_terminal=True, color_system=None, file=screen)
    show_evaluation(found, Terminal(console))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert ("predicted class" in screen.getvalue()) == matrix
    rows = (
        found.per_class if classes <= 40 else sorted(found.per_class, key=lambda row: row.f1)[:40]
    )
    for row in rows:
        shown = [line for line in lines if f"│ {row.name} " in line]
        assert any(f" {100 * row.f1:.2f} " in line for line in shown), row.name
    if classes == 100:
        assert "40 of 100 classes" in screen.getvalue()
        assert f" {100 * found.top5:.2f} " in screen.getvalue()


def test_json_and_csv_hold_the_evaluation(untrained: Path, tmp_path: Path) -> None:
    table = tmp_path / "classes.csv"
    words = ("-w", untrained, "--builder", "tinynets:student", "--csv", table)
    done = run(*words, "--json", "--worst", 3)
    found = compress.evaluate(own_model(untrained), worst=3)
    assert json.loads(done.stdout) == json.loads(json.dumps(found.to_dict()))
    rows = list(csv.DictReader(table.open()))
    assert [row["class"] for row in rows] == list(CLASSES)
    for row, scores, counts in zip(rows, found.per_class, found.confusion, strict=True):
        assert int(row["images"]) == scores.images
        assert float(row["recall"]) == pytest.approx(scores.recall)
        assert [int(row[f"predicted {name}"]) for name in CLASSES] == list(counts)
    # Such a table is replaced; any other file is not.
    table.write_text(table.read_text().splitlines()[0] + "\nold")
    run(*words)
    assert list(csv.DictReader(table.open())) == rows
    shown = run("-w", untrained, "--builder", "tinynets:student", "--csv", "-")
    assert list(csv.DictReader(shown.stdout.splitlines())) == rows


def test_no_file_of_another_kind_is_replaced(untrained: Path, tmp_path: Path) -> None:
    before = untrained.read_bytes()
    refused = run("-w", untrained, "--csv", untrained, code=2)
    assert str(untrained) in refused.stderr and untrained.read_bytes() == before
    taken = tmp_path / "taken.pth"
    taken.write_text("mine")
    refused = run("-w", untrained, "--calibrate", "--out", taken, code=2)
    assert "taken.pth" in refused.stderr and taken.read_text() == "mine"
    assert "--calibrate" in run("-w", untrained, "--out", tmp_path / "new.pth", code=2).stderr


def test_calibration_goes_into_the_file_or_another_one(
    finished: Path, mislabelled: str, tmp_path: Path
) -> None:
    file, link, other = tmp_path / "model.pth", tmp_path / "link.pth", tmp_path / "other.pth"
    file.write_bytes(before := (finished / "model.pth").read_bytes())
    link.symlink_to(file)
    words = ("--builder", "tinynets:student", "--data", mislabelled, "--calibrate")
    shown = run("-w", file, *words, "--out", other).stdout
    temperature = own_model(other).temperature
    assert file.read_bytes() == before and temperature != 1 and f"{temperature:.4g}" in shown

    done = run("-w", link, *words, "--json")
    assert json.loads(done.stdout)["temperature"] == temperature
    assert f"{temperature:.4g}" in done.stderr
    assert link.is_symlink() and own_model(file).temperature == temperature
    state, same = own_model(finished / "model.pth").model.state_dict(), own_model(file).model
    assert all(torch.equal(state[key], tensor) for key, tensor in same.state_dict().items())
    # Fitted again, it comes out the same: logits are fitted, not probabilities.
    run("-w", file, *words)
    assert own_model(file).temperature == temperature
