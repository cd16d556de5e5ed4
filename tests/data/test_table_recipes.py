"""The recipes of published tables, end to end, on generated data of the same file formats: only the data is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from dataset_files import write_cifar10, write_imagenet, write_images
from tiny import Published

import compress
from compress.data.sources import IMAGENETTE
from compress.plan import make_plan
from compress.recipe import load
from compress.rundir import read_records

ONCE = {"batch": 16, "distill.epochs": 1}


@pytest.mark.parametrize(
    ("recipe", "keys", "params"),
    [
        ("cifar10-stagewise", {"share": 0.25}, 5_171_466),
        ("cifar10-simultaneous", {"student": "resnet14_concat"}, 11_072_000),
        ("cifar10-alone", {}, 5_171_466),
        ("cifar10-kd-densenet40", {}, 4_020_358),
    ],
)
def test_cifar10(
    recipe: str, keys: dict[str, object], params: int, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(cache, monkeypatch)
    taught = {} if recipe.endswith("alone") else {"teach.epochs": 1}
    result = compress.run(recipe, out=tmp_path / "run", limit=32, **ONCE, **taught, **keys)
    kinds = [record.kind for record in read_records(tmp_path / "run")[1]]
    assert kinds == ["distill"] if recipe.endswith("alone") else kinds == ["teach", "distill"]
    kept = compress.load(result.model)
    assert sum(p.numel() for p in kept.model.parameters()) == pytest.approx(params, rel=0.001)
    assert kept.input_size == (3, 32, 32) and len(kept.classes) == 10


def test_imagenette(cache: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(cache / "imagenette2" / split, list(IMAGENETTE), 3, ".JPEG")
    small = {"size": 64, "teach.epochs": 1}  # the recipe's own 224 pixels would take minutes
    result = compress.run("imagenette-stagewise", out=tmp_path / "run", **ONCE, **small)
    assert compress.load(result.model).classes[0] == "tench" and result.records[-1].test is not None


def test_imagenet_has_a_teacher_that_knows_its_classes(cache: Path, tmp_path: Path, published: Published) -> None:
    """ResNet18 stands in for ResNet152, and 32 pixels for 224: the rest is the recipe's own."""
    write_imagenet(cache / "imagenet")
    smaller = {"size": 32, "limit": 1000, "batch": 64, "distill.epochs": 0.2, "teacher": "resnet18"}
    result = compress.run("imagenet-kd", out=tmp_path / "run", **smaller)
    assert [(record.kind, record.epochs) for record in result.records] == [("teach", 0), ("distill", 0.2)]
    teacher, theirs = compress.load(tmp_path / "run" / result.records[0].checkpoint), published("resnet18")
    assert torch.equal(teacher.model.state_dict()["fc.weight"], theirs["fc.weight"])
    assert len(compress.load(result.model).classes) == 1000


def test_a_pretrained_teacher_is_taught_the_classes_that_it_does_not_know(
    cache: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(cache, monkeypatch)
    plan = {"data": "cifar10", "limit": 32, "size": 32, "teacher": "resnet18"}
    with pytest.raises(compress.UserError, match=r"the head of resnet18 is new to cifar10's classes: .* 'teach' stage"):
        make_plan(load("imagenet-kd", plan))
    assert [step.name for step in make_plan(load("imagenet-kd", plan | {"distill.alpha": 0.0})).steps] == ["distill"]


def test_pretrained_weights_that_cannot_be_had_are_one_line(cache: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(cache / "imagewoof2" / split, list(IMAGENETTE), 3, ".JPEG")
    with pytest.raises(compress.UserError) as refused:
        compress.run("imagewoof-transfer", out=tmp_path / "run")
    assert "pretrained weights" in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()
