"""The recipes of published tables, end to end, on generated data of the same file formats: only the data is missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dataset_files import write_cifar10, write_imagenet, write_images
from tiny import Published

import compress
from compress.data.sources import IMAGENETTE, IMAGEWOOF
from compress.pipeline.context import Given
from compress.pipeline.plan import make_plan
from compress.recipe.load import load_recipe, shipped_recipes

OF_FASHION_MNIST = ("default", "fashion-mnist-best", "unstructured")  # run elsewhere
TABLES = [name for name in shipped_recipes() if name not in OF_FASHION_MNIST]
SMALL: dict[str, object] = {"teacher": "resnet18_concat"}
SMALLER: dict[
    str, dict[str, object]
] = {  # the smallest of a teacher's family where it would take a test minutes
    **{
        f"{data}-{how}": SMALL
        for data in ("imagenette", "imagewoof")
        for how in ("simultaneous", "stagewise")
    },
    "cifar10-kd-resnet152": {"teacher": "resnet18", "size": 16},
    "cifar10-kd-resnext29": {"teacher": "resnext29_2x64d", "size": 16},
    "cifar10-kd-densenet40": {"size": 16},
    "imagenet-kd": {"teacher": "resnet18"},
    "imagewoof-transfer": {"teacher": "resnet18"},
}


def short(recipe: str) -> dict[str, object]:
    """Keys that leave five steps of each stage, on images of 32 pixels."""
    few = (
        {"max_images": 1000, "batch_size": 64}
        if recipe.startswith("imagenet-")
        else {"max_images": 40, "batch_size": 8}
    )
    epochs = {
        f"{stage.kind}.epochs": 5 * few["batch"] / few["limit"]
        for stage in load_recipe(recipe).stages
    }
    return few | epochs | {"size": 32} | SMALLER.get(recipe, {})


@pytest.fixture
def data(
    cache: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Write the data set of a name, tiny, as its archives unpack."""

    def write(name: str) -> None:
        if name == "cifar10":
            write_cifar10(cache, monkeypatch)
        elif name == "imagenet":
            write_imagenet(cache / "imagenet")
        else:
            for split in ("train", "val"):
                classes = IMAGENETTE if name == "imagenette" else IMAGEWOOF
                write_images(cache / f"{name}2" / split, list(classes), 5, ".JPEG")

    return write


@pytest.mark.parametrize("recipe", TABLES)
def test_every_table_has_a_recipe_that_runs(
    recipe: str, data: Callable[[str], None], tmp_path: Path
) -> None:
    wanted = load_recipe(recipe)
    data(wanted.data)
    result = compress.run(recipe, out=tmp_path / "run", **short(recipe))
    taught = [] if recipe.endswith("alone") else ["teach"]
    learned = ["distill", "finetune"] if recipe.startswith("cifar10-kd") else ["distill"]
    assert [result.kind for result in result.results] == [*taught, *learned]
    kept = compress.load(result.model)
    assert kept.network == wanted.student and len(kept.classes) == (
        1000 if recipe.startswith("imagenet-") else 10
    )
    assert all(result.test is not None and math.isfinite(result.val) for result in result.results)


def test_a_teacher_of_all_images_can_teach_a_student_of_a_quarter(
    data: Callable[[str], None], tmp_path: Path
) -> None:
    """As the recipes of stagewise distillation say."""
    data("cifar10")
    keys = {
        key: value for key, value in short("cifar10-stagewise").items() if key != "limit"
    } | SMALL
    compress.run("cifar10-stagewise", out=tmp_path / "all", **keys)
    taught, again = (tmp_path / run / "stages" / "01-teach.pth" for run in ("all", "quarter"))
    compress.run(
        "cifar10-stagewise", out=tmp_path / "quarter", **(keys | {"share": 0.25, "teacher": taught})
    )
    theirs, ours = (compress.load(file).model.state_dict() for file in (taught, again))
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_imagenets_teacher_knows_its_classes(
    data: Callable[[str], None], tmp_path: Path, published: Published
) -> None:
    data("imagenet")
    steps = make_plan(load_recipe("imagenet-kd", short("imagenet-kd"))).steps
    assert isinstance(steps[0].stage, Given)
    teacher = steps[0].stage.checkpoint.model.state_dict()
    assert torch.equal(teacher["fc.weight"], published("resnet18")["fc.weight"])


def test_a_pretrained_teacher_is_taught_the_classes_that_it_does_not_know(
    cache: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(cache, monkeypatch)
    plan = {"data": "cifar10", "max_images": 32, "size": 32, "teacher": "resnet18"}
    with pytest.raises(
        compress.UserError,
        match=r"the head of resnet18 is new to cifar10's classes: .* 'teach' stage",
    ):
        make_plan(load_recipe("imagenet-kd", plan))
    assert [
        step.name
        for step in make_plan(load_recipe("imagenet-kd", plan | {"distill.alpha": 0.0})).steps
    ] == ["distill"]


def test_pretrained_weights_that_cannot_be_had_are_one_line(cache: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(cache / "imagewoof2" / split, list(IMAGENETTE), 3, ".JPEG")
    with pytest.raises(compress.UserError) as refused:
        compress.run("imagewoof-transfer", out=tmp_path / "run")
    assert "pretrained weights" in str(refused.value) and len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()
