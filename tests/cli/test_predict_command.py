"""`predict`: tables, JSON, CSV, unreadable images, and the console script."""

from __future__ import annotations

import csv
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from commands import ROOT
from tiny import CLASSES, Compress, Tiny

import compress
from compress.cli.predict import predict
from compress.models import checkpoint
from compress.models.build import import_builder

BUILDER = ("--builder", "tinynets:student")


def test_predictions_are_shown_in_a_table(run: Compress, tiny: Tiny, finished: Path) -> None:
    images = [tiny.data / "test" / kind / f"{number:03}.png" for number, kind in enumerate(CLASSES)]
    shown = run("predict", "-w", finished / "model.pth", *BUILDER, "--top", 2, *images).out
    model = checkpoint.load(finished / "model.pth", import_builder("tinynets:student"))
    for prediction in compress.predict(model, images, top=2):
        assert len(prediction.top) == 2
        for name, probability in prediction.top:
            assert f"{name} {probability:.1%}" in shown
    assert "\x1b" not in shown


def test_predictions_for_other_programs(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    table, folder = tmp_path / "out.csv", tiny.data / "test" / "cross"
    file = finished / "model.pth"
    shown = run("predict", "-w", file, *BUILDER, "--json", "--csv", table, folder).out
    found = json.loads(shown)
    assert len(found) == 20 and all(set(row) == {"image", "top"} for row in found)
    model = checkpoint.load(file, import_builder("tinynets:student"))
    direct = compress.predict(model, [row["image"] for row in found])
    assert [p.top[0][0] for p in direct] == [row["top"][0]["class"] for row in found]
    for row in found:
        probabilities = [each["probability"] for each in row["top"]]
        assert len(probabilities) == 3 and 0 < sum(probabilities) <= 1.00001
        assert probabilities == sorted(probabilities, reverse=True)
    rows = list(csv.DictReader(table.open()))
    assert [(row["image"], row["class"]) for row in rows] == [
        (row["image"], top["class"]) for row in found for top in row["top"]
    ]


def test_a_table_goes_to_standard_output_alone(
    run: Compress, tiny: Tiny, weights: Path, tmp_path: Path
) -> None:
    words, table = ("predict", "-w", weights, tiny.data / "test" / "blob", "--csv"), "out.csv"
    run(*words, tmp_path / table)
    assert run(*words, "-").out.splitlines() == (tmp_path / table).read_text().splitlines()
    # Names are those of the files, even where they could turn the text of a terminal around.
    odd = tmp_path / "a\u202eb.png"
    odd.write_bytes((tiny.data / "test" / "blob" / "000.png").read_bytes())
    assert str(odd) in run("predict", "-w", weights, odd, "--csv", "-").out
    refused = run(*words, "-", "--json", code=2)
    assert refused.out == "" and "--json and --csv -" in refused.err
    assert not Path("-").exists()


def test_an_unreadable_image_does_not_stop_the_others(
    run: Compress, tiny: Tiny, weights: Path, tmp_path: Path
) -> None:
    bad, good = tmp_path / "[bold]bad[x].png", tiny.data / "test" / "blob" / "000.png"
    bad.write_text("no image")
    done = run("predict", "-w", weights, bad, good, "--json", code=1)
    rows = json.loads(done.out)
    assert rows[0]["error"] and rows[0]["top"] == [] and len(rows[1]["top"]) == 3
    assert done.err.count("\n") == 1 and done.err.startswith(f"{bad}: ")
    shown = run("predict", "-w", weights, f"../{bad.name}", good, code=1).out
    assert f"│ ../{bad.name} " in shown and "unreadable: " in shown


def test_a_name_too_long_for_a_path_does_not_stop_the_others(
    run: Compress, tiny: Tiny, weights: Path
) -> None:
    good = tiny.data / "test" / "blob" / "000.png"
    done = run("predict", "-w", weights, "x" * 300, good, "--json", code=1)
    assert [len(row["top"]) for row in json.loads(done.out)] == [0, 3] and "too long" in done.err


def test_the_test_split_is_scored_without_images(run: Compress, finished: Path) -> None:
    shown = run("predict", "-w", finished / "model.pth", *BUILDER).out
    correct = [int(count) for count in re.findall(r"│ +(\d+) │ +20 │", shown)]
    test = json.loads((finished / "run.json").read_text())["stages"][-1]["test"]
    assert len(correct) == 4 and sum(correct) / 80 == test and f"{test:.2%}" in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "folder:nowhere"], "nowhere"),
        (["--json"], "IMAGES"),
        (["--csv", "x.csv"], "IMAGES"),
        (["--invert"], "IMAGES"),
        (["--top", "0", "x.png"], "--top"),
        (["--bottom", "x.png"], "--bottom"),
        (["--device", "tpu", "x.png"], "tpu"),
        (["--builder", "nowhere:net", "x.png"], "nowhere"),
    ],
)
def test_predict_refuses(run: Compress, weights: Path, flags: list[str], words: str) -> None:
    refused = run("predict", "-w", weights, *flags, code=2)
    assert words in refused.err and refused.out == ""


def test_a_folder_without_images_is_refused(run: Compress, weights: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "photos").mkdir()
    (folder / "notes.txt").touch()
    refused = run("predict", "-w", weights, folder, code=2)
    assert refused.out == "" and refused.err.startswith(f"error: {folder}: holds no images")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(
    run: Compress, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "masks"):
        refused = run("predict", "-w", __file__, "missing.png", "--out", out, code=2)
        assert refused.err.count("\n") == 1 and str(tmp_path / "file") in refused.err


def test_a_weights_file_does_not_choose_what_is_imported(run: Compress, finished: Path) -> None:
    refused = run("predict", "-w", finished / "model.pth", "x.png", code=2)
    assert refused.err.count("\n") == 1 and "tinynets:student" in refused.err


def test_the_console_script_predict(
    tiny: Tiny, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["predict"] == "compress.cli.predict:predict"
    image = tiny.data / "test" / "blob" / "000.png"
    monkeypatch.setattr(sys, "argv", ["predict", "-w", str(weights), "--json", str(image)])
    with pytest.raises(SystemExit) as end:
        predict()
    assert end.value.code == 0 and json.loads(capsys.readouterr().out)[0]["image"] == str(image)
    monkeypatch.setattr(sys, "argv", ["predict", "-w", "none.pth", str(image)])
    with pytest.raises(SystemExit) as end:
        predict()
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: none.pth: no such file\n"
