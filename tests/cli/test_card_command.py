"""`card`: what the file says, in the form that Hugging Face reads, and nothing of this machine."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from commands import ROOT
from huggingface_hub import ModelCard
from small_checkpoints import small_checkpoint
from tiny import Tiny, own_model

from compress.cli.main import main
from compress.models import checkpoint
from compress.models.checkpoint import Checkpoint
from compress.pruning.prune_file import prune_file
from compress.recipe.budget import parse_budgets
from compress.reporting.model_card.card import make_card
from compress.reporting.model_card.card_data import describe_data, hub_id, name_data
from compress.reporting.model_card.card_origin import describe_training

SHIPPED = ROOT / "weights" / "fashion-mnist-100k.pth"


def run(*words: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["card", *map(str, words)])
    assert done.exit_code == code, done.output
    return done


def card_of(known: Checkpoint, folder: Path) -> str:
    checkpoint.save(known, folder / "model.pth")
    return make_card(known, folder / "model.pth")


def test_the_hub_reads_the_card_of_a_shipped_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "model.pth", tmp_path / "README.md"
    shutil.copy(SHIPPED, file)
    run("-w", file, "-o", out)
    text = out.read_text(encoding="utf-8")
    data = ModelCard(text).data
    assert data.library_name == "compress" and data.datasets == ["zalando-datasets/fashion_mnist"]
    assert {"image-classification", "pruning", "knowledge-distillation"} <= set(data.tags)
    [result] = data.eval_results
    stages = checkpoint.load(SHIPPED).origin["stages"]
    assert result.metric_type == "accuracy" and result.metric_value == stages[-1]["test"]
    assert result.dataset_split == "test" and result.task_type == "image-classification"
    for stage in stages:
        assert f"| {stage['name']} | {stage['params']:,} |" in text
    assert "99,938" in text and "94.92" in text and "Ankle boot" in text
    # Its lines of use work as they stand.
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shutil.copy(ROOT / "docs" / "images" / "coat.png", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert "Coat" in capsys.readouterr().out
    # No file is replaced.
    assert "README.md" in run("-w", file, "-o", out, code=2).stderr
    assert out.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("teacher", "student", "stages", "said"),
    [
        ({}, {"weights": "a.pth"}, ["teach", "prune"], "Teacher: the student itself"),
        ({"weights": "b.pth"}, {"weights": "a.pth"}, ["teach"], "Teacher: resnet18."),
        ({}, {}, ["teach", "distill"], "Teacher: resnet18."),
        ({"pretrained": True}, {}, ["distill"], "Teacher: resnet18."),
        ({}, {}, ["distill"], None),
    ],
)
def test_the_teacher_is_named_if_there_was_one(
    teacher: dict[str, Any], student: dict[str, Any], stages: list[str], said: str | None
) -> None:
    network = {"name": "resnet18"}
    numbers = dict(params=1, macs=1, val=0.5, test=0.5, seconds=1.0, epochs=1)
    text = describe_training(
        {
            "recipe": {"teacher": network | teacher, "student": network | student},
            "stages": [{"name": name} | numbers for name in stages],
        }
    )
    assert "Student: resnet18." in text and (said in text if said else "Teacher" not in text)


def test_an_accuracy_is_rounded(tmp_path: Path, finished: Path) -> None:
    known = own_model(finished / "model.pth")
    stages = [dict(stage) for stage in known.origin["stages"]]
    stages[-1]["test"] = 2 / 3
    text = card_of(replace(known, origin=known.origin | {"stages": stages}), tmp_path)
    assert "value: 0.6667\n" in text


def test_a_run_gives_its_balanced_accuracy_and_no_path(
    finished: Path, tiny: Tiny, tmp_path: Path
) -> None:
    words = ("-w", finished / "model.pth", "--builder", "tinynets:student")
    text = run(*words).stdout
    assert str(tiny.root) not in text and str(finished) not in text and "`images`" in text
    assert "tinynets:student" in text
    front = yaml.safe_load(text.split("---")[1])
    assert "datasets" not in front and "tinynets:student" not in front["tags"]
    stages = json.loads((finished / "run.json").read_text())["stages"]
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == stages[-1]["test"]

    # The manifest of the run adds to it; one of another run does not.
    shutil.copy(finished / "model.pth", tmp_path)
    manifest = json.loads((finished / "run.json").read_text()) | {"checksum": ""}
    manifest["stages"][-1] |= {"val_balanced": 0.1234, "test_balanced": 0.4321}
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    words = ("-w", tmp_path / "model.pth", "--builder", "tinynets:student")
    assert "| balanced accuracy | 43.21 | 12.34 |" in run(*words).stdout
    manifest["stages"][0]["val"] /= 2
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    other = run(*words)
    assert "balanced" not in other.stdout and "another run" in other.stderr


def test_a_stage_of_a_run_under_way_has_no_test_accuracy(finished: Path, tmp_path: Path) -> None:
    known = own_model(finished / "model.pth")
    [*others, last] = known.origin["stages"]
    stages = [*others, last | {"test": None}]
    text = card_of(replace(known, origin=known.origin | {"stages": stages}), tmp_path)
    assert "model-index" not in yaml.safe_load(text.split("---")[1])
    assert "read once" not in text and f"{100 * last['val']:.2f}" in text
    assert "read once" in card_of(known, tmp_path)


def test_a_network_that_was_changed_has_no_accuracy_of_its_training(tmp_path: Path) -> None:
    file, budgets = tmp_path / "cut.pth", parse_budgets({"budget": "50k"})
    prune_file(checkpoint.load(SHIPPED), budgets, file, mode="weights")
    text = make_card(checkpoint.load(file), file)
    assert "model-index" not in yaml.safe_load(text.split("---")[1])
    assert "compress eval" in text and "budget 50k" in text


@pytest.mark.parametrize(
    "origin",
    [
        {},
        {"stages": None, "recipe": [], "versions": "1", "data_checksum": 7, "pruned": "x"},
        {"stages": [1, {}, {"name": "teach", "params": "many"}], "recipe": {"teacher": 3}},
        {
            "stages": [
                {"name": "a|b\n# c", "params": 1, "macs": 1, "val": 2.0, "seconds": 1, "epochs": 1},
                {"name": "<i>*c*", "params": 1, "macs": 1, "val": 1, "seconds": 1, "epochs": 1},
                {"name": "x", "params": 10**5000, "macs": 1, "val": float("nan"), "seconds": 1},
            ],
            "recipe": {"title": "---\n<script>alert(1)</script>", "budget": "*"},
            "versions": {"compress": "[x](http://a.b)"},
        },
    ],
)
def test_an_origin_of_any_kind_makes_a_card(origin: dict[str, Any], tmp_path: Path) -> None:
    classes = ("a|b", "# c\n---\n", "<b>", "\x1b[2J", "\ud800")
    known = replace(small_checkpoint(), origin=origin, classes=classes, data="folder:/home/me/x\ny")
    text = card_of(known, tmp_path)
    front = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---"))
    assert front["library_name"] == "compress" and "model-index" not in front
    assert (
        "/home/me" not in text
        and "<script>" not in text
        and "*c*" not in text
        and "\x1b" not in text
    )
    lines = text.split("\n")
    assert lines.count("---") == 2
    headings = ["Data", "Training", "Metrics", "Limits", "Use"]
    assert [line[3:] for line in lines if line.startswith("## ")] == headings
    text.encode()


def test_calibration_and_sparse_weights_are_said(tmp_path: Path) -> None:
    plain = card_of(small_checkpoint(), tmp_path)
    assert "not calibrated" in plain and "temperature" not in plain
    text = card_of(replace(small_checkpoint(), temperature=1.5, sparse=True), tmp_path)
    assert "| temperature | 1.5," in text and "not calibrated" not in text and "not zero" in text


def test_data_sets_are_named_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "local").mkdir()
    assert (
        hub_id("hf:owner/name") == "owner/name" and hub_id("imagenette-160") == "frgfm/imagenette"
    )
    assert [hub_id(f"hf:{place}") for place in ("local", "/a/b", "./a", "a/b/c")] == [None] * 4
    assert name_data("csv:/home/me/labels.csv") == "labels.csv"
    assert name_data(f"hf:{'x' * 5000}") == "x" * 5000
    assert "60,000" in describe_data("mnist") and "/home" not in describe_data("hf:/home/me/set")
