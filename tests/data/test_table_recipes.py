"""Recipes of published tables, end to end, on small generated data in the published formats."""

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
from compress.pipeline.plan import make_plan
from compress.recipe.load import load_recipe, shipped_recipes

# Recipes for Fashion-MNIST are run by other tests.
OWN = ("photos", "segment")
TABLES = [
    name
    for name in shipped_recipes()
    if load_recipe(name).data != "fashion-mnist" and name not in OWN
]

# The smallest networks of a teacher's family, where the teacher itself takes minutes.
SMALL: dict[str, object] = {"teacher": "resnet18_concat"}
SMALLER: dict[str, dict[str, object]] = {
    **{
        f"{data}-{method}": SMALL
        for data in ("imagenette", "imagewoof")
        for method in ("simultaneous", "stagewise")
    },
    "cifar10-kd-resnet152": {"teacher": "resnet18", "image_size": 16},
    "cifar10-kd-resnext29": {"teacher": "resnext29_2x64d", "image_size": 16},
    "cifar10-kd-densenet40": {"image_size": 16},
    "imagenet-kd": {"teacher": "resnet18"},
    "imagewoof-transfer": {"teacher": "resnet18"},
}


def shorten(recipe: str) -> dict[str, object]:
    """Return keys that leave three steps of each stage, on images of 32 pixels."""
    max_images, batch_size = (1000 if recipe.startswith("imagenet-") else 40), 8
    epochs = 3 * batch_size / max_images
    keys: dict[str, object] = {"max_images": max_images, "batch_size": batch_size, "image_size": 32}
    kinds = {stage.kind for stage in load_recipe(recipe).stages}
    return keys | {f"{kind}.epochs": epochs for kind in kinds} | SMALLER.get(recipe, {})


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "imagenet"
    write_imagenet(root)
    return root


@pytest.fixture
def write_data(
    cache: Path,
    published: Published,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Callable[[str], None]:
    """Write a small data set of a published one's name, in its format."""

    def write(name: str) -> None:
        if name == "cifar10":
            write_cifar10(cache, monkeypatch)
        elif name == "imagenet":
            cache.mkdir()
            (cache / "imagenet").symlink_to(request.getfixturevalue("imagenet"))
        else:
            classes = IMAGENETTE if name == "imagenette" else IMAGEWOOF
            for split in ("train", "val"):
                write_images(cache / f"{name}2" / split, list(classes), 5, ".JPEG")

    return write


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TABLES)
def test_the_recipes_of_published_tables_run(
    recipe: str, write_data: Callable[[str], None], tmp_path: Path
) -> None:
    loaded = load_recipe(recipe)
    write_data(loaded.data)
    result = compress.run(recipe, out=tmp_path / "run", **shorten(recipe))
    taught = [] if recipe.endswith("alone") else ["teach"]
    trained = ["distill", "finetune"] if recipe.startswith("cifar10-kd") else ["distill"]
    assert [result.kind for result in result.results] == [*taught, *trained]
    final = compress.load(result.model)
    assert final.network == loaded.student
    assert len(final.classes) == (1000 if recipe.startswith("imagenet-") else 10)
    assert all(result.test is not None and math.isfinite(result.val) for result in result.results)


@pytest.mark.slow
def test_a_teacher_of_all_images_can_teach_a_student_of_a_quarter(
    write_data: Callable[[str], None], tmp_path: Path
) -> None:
    """The recipes of stagewise distillation describe this in their comments."""
    write_data("cifar10")
    keys = shorten("cifar10-stagewise") | SMALL
    del keys["max_images"]
    compress.run("cifar10-stagewise", out=tmp_path / "all", **keys)
    taught, again = (tmp_path / run / "stages" / "01-teach.pth" for run in ("all", "quarter"))
    keys |= {"data_fraction": 0.25, "teacher": taught}
    compress.run("cifar10-stagewise", out=tmp_path / "quarter", **keys)
    theirs, ours = (compress.load(file).model.state_dict() for file in (taught, again))
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


@pytest.mark.slow
def test_a_pretrained_teacher_of_imagenet_is_used_as_published(
    write_data: Callable[[str], None], published: Published
) -> None:
    write_data("imagenet")
    first = make_plan(load_recipe("imagenet-kd", shorten("imagenet-kd"))).steps[0]
    assert first.kind == "teach" and first.trained is not None
    teacher = first.trained.model.state_dict()
    assert torch.equal(teacher["fc.weight"], published("resnet18")["fc.weight"])


def test_a_pretrained_teacher_needs_a_teach_stage_for_other_classes(
    cache: Path, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(cache, monkeypatch)
    keys = {"data": "cifar10", "max_images": 32, "image_size": 32, "teacher": "resnet18"}
    with pytest.raises(compress.UserError, match=r"resnet18.*cifar10.*'teach' stage"):
        make_plan(load_recipe("imagenet-kd", keys))
    plan = make_plan(load_recipe("imagenet-kd", keys | {"distill.alpha": 0.0}))
    assert [step.name for step in plan.steps] == ["distill"]


def test_pretrained_weights_that_cannot_be_downloaded_are_one_line(
    cache: Path, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        write_images(cache / "imagewoof2" / split, list(IMAGEWOOF), 3, ".JPEG")
    with pytest.raises(compress.UserError, match="pretrained weights") as error:
        compress.run("imagewoof-transfer", out=tmp_path / "run")
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()
