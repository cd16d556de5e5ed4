"""Tables and picture of an experiment."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_experiment import read_manifest, same_weights, shares_trials

import compress
from compress.experiments.results import experiment_table, trials_table, write_tables
from compress.experiments.trial import Trial, group_by_row
from compress.pipeline.run_dir import StageResult
from compress.recipe.load import load_recipe


def make_trial(alpha: str, seed: int, test: float | None, folder: Path = Path("runs")) -> Trial:
    """A trial of one stage; without a test accuracy it failed."""
    result = StageResult(
        "distill", "distill", "vgg11", 10_000, 2_500_000, val=0.5, seconds=40, checkpoint=""
    )
    teach = StageResult("teach", "teach", "vgg13", 9, 9, val=0.9, seconds=1000, checkpoint="")
    finished = StageResult(**vars(result) | {"test": test})
    return Trial(
        {"distill.alpha": alpha},
        load_recipe("default", {"seed": seed}),
        folder / f"{alpha}-{seed}",
        (teach, finished) if test is not None else (),
        None if test is not None else "distill: the loss is not finite",
    )


def test_a_row_has_the_mean_and_sample_deviation_of_its_seeds() -> None:
    trials = [make_trial("0.0", 0, 0.90), make_trial("0.9", 0, 0.80)]
    trials += [make_trial("0.0", 1, 0.92), make_trial("0.9", 1, None)]
    assert [len(row) for _, row in group_by_row(trials)] == [2, 2]
    table = experiment_table(trials)
    assert table.left == 1
    assert [dict(zip(table.headings, row, strict=True)) for row in table.rows] == [
        {
            "distill.alpha": "0.0",
            "parameters": "10,000",
            "multiply-adds": "2.50 M",
            "val %": "50.00 ± 0.00",
            "test %": "91.00 ± 1.41",
            "seeds": "2",
            "seconds": "40",
        },
        {
            "distill.alpha": "0.9",
            "parameters": "10,000",
            "multiply-adds": "2.50 M",
            "val %": "50.00",
            "test %": "80.00",
            "seeds": "1 of 2",
            "seconds": "40",
        },
    ]


def test_uneven_classes_have_balanced_accuracy_too(tmp_path: Path) -> None:
    even, failed = make_trial("0.0", 0, 0.9), make_trial("0.9", 0, None)
    results = tuple(replace(each, test_balanced=0.7) for each in even.results)
    trials = [replace(even, results=results), failed]
    table = experiment_table(trials)
    place = table.headings.index("balanced %")
    assert [row[place] for row in table.rows] == ["70.00", "-"]
    write_tables(trials, tmp_path)
    rows = csv.DictReader((tmp_path / "table.csv").open(newline=""))
    assert [row["balanced"] for row in rows] == ["0.7", ""]


def test_rows_of_several_data_sets_have_only_the_scores_that_are_known(tmp_path: Path) -> None:
    even, uneven = make_trial("0.0", 0, 0.9), make_trial("0.9", 0, 0.8)
    results = tuple(replace(each, test_balanced=0.7, metric="mIoU") for each in uneven.results)
    trials = [even, replace(uneven, results=results)]
    table = experiment_table(trials)
    assert "val score %" in table.headings and "test score %" in table.headings
    place = table.headings.index("balanced %")
    assert [row[place] for row in table.rows] == ["-", "70.00"]
    write_tables(trials, tmp_path)
    rows = csv.DictReader((tmp_path / "table.csv").open(newline=""))
    assert [row["balanced"] for row in rows] == ["", "0.7"]


def test_failed_trials_are_named_below_the_table_and_in_the_csv(tmp_path: Path) -> None:
    trials = [make_trial("0.0", 0, 0.9, tmp_path), make_trial("0.9", 0, None, tmp_path)]
    write_tables(trials, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| 0.9 | - | - | - | - | 0 of 1 | - |\n" in text
    assert "\n0.9-0 failed: distill: the loss is not finite\n" in text
    assert f"compress run {tmp_path / '0.0-0' / 'run.json'} --out" in text
    good, bad = csv.DictReader((tmp_path / "table.csv").open(newline=""))
    assert (good["test"], good["seconds"], good["error"]) == ("0.9", "40", "")
    assert (bad["test"], bad["seconds"]) == ("", "") and "not finite" in bad["error"]
    assert trials_table(trials).headings[0] == "distill.alpha"


@shares_trials
def test_the_table_of_real_runs_has_their_accuracies(trials: list[Trial]) -> None:
    text = (trials[0].folder.parent / "table.md").read_text()
    cells = r"^\| ([\d.]+) \| ([\d.]+) \| 14,548 \| .* \| ([\d.]+) ± ([\d.]+) \| 2 \|"
    rows = re.findall(cells, text, re.M)
    assert [row[:2] for row in rows] == [
        ("1.0", "0.0"),
        ("1.0", "0.9"),
        ("0.4", "0.0"),
        ("0.4", "0.9"),
    ]
    for fraction, alpha, mean, deviation in rows:
        label = {"data_fraction": fraction, "distill.alpha": alpha}
        tests = [
            100 * read_manifest(trial)["stages"][-1]["test"]
            for trial in trials
            if trial.label == label
        ]
        assert len(tests) == 2
        assert (mean, deviation) == (f"{np.mean(tests):.2f}", f"{np.std(tests, ddof=1):.2f}")


@shares_trials
def test_every_run_is_a_line_of_the_csv_and_can_be_repeated(
    trials: list[Trial], tmp_path: Path
) -> None:
    with (trials[0].folder.parent / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 8
    for line in lines:
        run = json.loads((Path(line["directory"]) / "run.json").read_text())
        recipe = run["recipe"]
        assert (run["seed"], recipe["data_fraction"], recipe["stages"][1]["alpha"]) == (
            int(line["seed"]),
            float(line["data_fraction"]),
            float(line["distill.alpha"]),
        )
        assert float(line["test"]) == run["stages"][-1]["test"] and not line["error"]
        assert float(line["seconds"]) == pytest.approx(run["stages"][1]["seconds"], abs=0.1)
    last = Path(lines[-1]["directory"])
    again = compress.run(last / "run.json", out=tmp_path / "again")
    assert same_weights(again.model, last / "model.pth")


@shares_trials
def test_the_picture_has_a_color_for_each_value_of_the_last_key(trials: list[Trial]) -> None:
    with Image.open(trials[0].folder.parent / "table.png") as picture:
        colors = {pixel for _, pixel in picture.convert("RGB").getcolors(1 << 20) or []}
        assert picture.format == "PNG"
    assert {(31, 119, 180), (255, 127, 14)} <= colors
