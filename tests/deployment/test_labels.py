"""Labels from folders of classes, and the accuracy on them, in every form of output."""

import csv
import json
import re
from pathlib import Path

import pytest
from tiny import CLASSES, Compress, Tiny

from compress.deployment.labels import (
    add_labels,
    find_labelled_images,
    measure_label_accuracy,
)
from compress.deployment.predict import Prediction
from compress.deployment.write_predictions import to_json, write_csv


def said(label: str | None, top: str | None = "cat") -> Prediction:
    error = None if top else "damaged"
    return Prediction("x.png", ((top, 0.9),) if top else (), error, label)


UNEVEN = [said("cat"), said("cat"), said("cat"), said("dog"), said(None), said("dog", None)]


@pytest.fixture
def new(tmp_path: Path) -> Path:
    for place in ("cat/1.png", "Dog/a/2.png", "unsorted/3.png", "4.png", "test/dog/5.png"):
        (tmp_path / "new" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "new" / place).touch()
    return tmp_path / "new"


def test_subfolders_named_like_classes_are_labels(new: Path) -> None:
    found = find_labelled_images([str(new)], ["cat", "dog"])
    assert {Path(image).name: label for image, label in found} == {
        "1.png": "cat",
        "2.png": "dog",
        "3.png": None,
        "4.png": None,
        "5.png": "dog",
    }


def test_accents_have_one_spelling(tmp_path: Path) -> None:
    (tmp_path / "cafe\u0301").mkdir()
    (tmp_path / "cafe\u0301" / "1.png").touch()
    [(_, label)] = find_labelled_images([str(tmp_path)], ["caf\u00e9", "tea"])
    assert label == "caf\u00e9"


def test_files_and_globs_have_no_labels(new: Path) -> None:
    patterns = [f"{new}/cat/*.png", f"{new}/cat/1.png", "-", str(new / "cat")]
    assert [label for _, label in find_labelled_images(patterns, ["cat", "dog"])] == [None] * 4


def test_classes_that_differ_in_case_alone_are_kept_apart(tmp_path: Path) -> None:
    for name in ("A", "a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").touch()
    found = find_labelled_images([str(tmp_path)], ["A", "B"])
    assert {Path(image).parent.name: label for image, label in found} == {
        "A": "A",
        "a": "A",
        "b": "B",
    }
    both = find_labelled_images([str(tmp_path)], ["A", "a"])
    assert {Path(image).parent.name: label for image, label in both} == {
        "A": "A",
        "a": "a",
        "b": None,
    }


def test_accuracy_and_balanced_accuracy_of_uneven_classes() -> None:
    found = measure_label_accuracy(UNEVEN)
    assert found is not None and (found.correct, found.total, found.unlabelled) == (3, 4, 1)
    assert found.top1 == 0.75 and found.balanced == 0.5
    even = measure_label_accuracy(UNEVEN[2:4])
    assert even is not None and even.balanced is None
    assert measure_label_accuracy([said(None)]) is None


def test_json_and_csv_have_labels_and_accuracy(tmp_path: Path) -> None:
    found = json.loads(to_json(UNEVEN))
    assert (found["accuracy"], found["balanced_accuracy"]) == (0.75, 0.5)
    assert [row.get("correct") for row in found["predictions"]] == [
        *(True, True, True, False),
        *(None, None),
    ]
    write_csv(UNEVEN, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["correct"] for row in rows] == ["1", "1", "1", "0", "", ""]
    assert {(row["accuracy"], row["balanced_accuracy"]) for row in rows} == {("0.75", "0.5")}
    assert rows[5]["label"] == "dog" and rows[5]["error"] == "damaged"


def test_predictions_and_labels_are_paired_in_order() -> None:
    labelled = add_labels([said(None), said(None)], ["cat", None])
    assert [each.correct for each in labelled] == [True, None]


@pytest.mark.slow
def test_predict_scores_folders_of_new_images(
    tiny: Tiny, weights: Path, tmp_path: Path, run: Compress
) -> None:
    source = tiny.data / "train" if (tiny.data / "train").is_dir() else tiny.data
    for name in CLASSES[:3]:
        (tmp_path / "new" / name).mkdir(parents=True)
        for file in sorted((source / name).iterdir())[: 2 + (name == CLASSES[0])]:
            (tmp_path / "new" / name / file.name).write_bytes(file.read_bytes())
    shown = run("predict", "-w", weights, tmp_path / "new")
    assert "label" in shown.out and "of 7 images" in shown.out and "balanced" in shown.out
    listed = run("predict", "-w", weights, tmp_path / "new", "--json")
    table = run("predict", "-w", weights, "--data", f"folder:{tmp_path / 'new'}")
    assert "all of its 7 images" in table.out
    assert re.search(r"all\W+\d+\W+7\b", table.out)
    right = sum(row["correct"] for row in json.loads(listed.out)["predictions"])
    assert f"({right} of 7 images)" in shown.out
