"""A run on masks, from images to a pruned network, its predictions and its exported file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mask_files import CLASSES, NETWORKS, RECIPE, SIDE, write_masks
from PIL import Image
from tiny import Tiny

import compress
from compress.cli.main import main
from compress.pipeline.plan import make_plan
from compress.pipeline.run import RunResult
from compress.recipe.load import load_recipe
from compress.recipe.schema import Recipe
from compress.runtime.errors import UserError


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("unets")
    (root / "tinyunets.py").write_text(NETWORKS)
    data = write_masks(root / "data")
    file = root / "recipe.toml"
    file.write_text(RECIPE.format(data=data))
    sys.path.insert(0, str(root))
    yield file
    sys.path.remove(str(root))


@pytest.fixture(scope="module")
def done(recipe: Path) -> RunResult:
    return compress.run(recipe, out=recipe.parent / "run", device="cpu")


@pytest.mark.slow
def test_a_unet_is_taught_distilled_and_pruned_to_its_budget(done: RunResult) -> None:
    teacher, student, cut, final = done.results
    assert 1485 <= cut.params <= 1500 and cut.params < student.params / 2
    assert {result.metric for result in done.results} == {"mIoU"}
    assert teacher.val > 0.6 and final.test is not None and final.test > 0.5
    loaded = done.load()
    assert loaded.labels == "pixels" and loaded.classes == CLASSES
    assert loaded.model(torch.zeros(1, 3, SIDE, SIDE)).shape == (1, 3, SIDE, SIDE)


@pytest.mark.slow
def test_masks_and_overlays_are_written(done: RunResult, recipe: Path, tmp_path: Path) -> None:
    image = recipe.parent / "data" / "test" / "images" / "000.png"
    large = tmp_path / "wide.png"
    Image.open(image).resize((96, 64)).save(large)
    command = ["predict", str(image), str(large), "--weights", str(done.model), "--out"]
    command += [str(tmp_path / "out"), "--builder", "tinyunets:student"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    mask = np.array(Image.open(tmp_path / "out" / "000.png"))
    truth = np.array(Image.open(recipe.parent / "data" / "test" / "masks" / "000.png"))
    assert mask.shape == truth.shape and (mask == truth).mean() > 0.8
    wide = np.array(Image.open(tmp_path / "out" / "wide.png"))
    assert wide.shape == (64, 96)
    assert (wide[:, :16] == 255).all() and (wide[:, 16:80] != 255).all()
    assert Image.open(tmp_path / "out" / "wide-overlay.png").size == (96, 64)
    [found] = compress.predict(done.load(), [str(image)], top=3)
    assert found.top[0] == ("ground", pytest.approx(float((mask == 0).mean())))


@pytest.mark.slow
def test_an_exported_file_labels_the_same_pixels(done: RunResult, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    exported = compress.export(done.load(), "onnx", tmp_path / "unet.onnx", uint8=True)
    assert exported.agreement > 0.999
    random = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    masks = [
        next(iter(compress.predict(model, [random]))).mask
        for model in (done.load(), tmp_path / "unet.onnx")
    ]
    assert masks[0] is not None and masks[1] is not None
    assert (masks[0] == masks[1]).float().mean() > 0.99


@pytest.mark.slow
def test_what_needs_a_classifier_says_so(done: RunResult) -> None:
    for refused in (compress.evaluate, compress.quantize):
        with pytest.raises(UserError, match="classifies images; this one labels pixels"):
            refused(done.load())  # type: ignore[operator]


def with_stage(recipe: Recipe, **keys: object) -> Recipe:
    first = replace(recipe.stages[0], **keys)  # type: ignore[arg-type]
    return replace(recipe, stages=(first, *recipe.stages[1:]))


def test_keys_that_do_not_suit_masks_are_refused(recipe: Path, tiny: Tiny) -> None:
    loaded = load_recipe(str(recipe))
    for key, value in (("mixup", 0.2), ("cutmix", 1.0), ("auto_augment", "rand")):
        with pytest.raises(UserError, match=f"teach: {key} = {value!r} does not move the masks"):
            make_plan(with_stage(loaded, **{key: value}), "cpu")
    with pytest.raises(UserError, match=r"balance = 'loss'.*has masks"):
        make_plan(replace(loaded, balance="loss"), "cpu")
    with pytest.raises(UserError, match=r"'tinynets:student' returns \(1, 3\) for one image"):
        make_plan(replace(loaded, student=replace(loaded.student, name="tinynets:student")), "cpu")


@pytest.mark.usefixtures("tiny")
def test_masks_are_for_networks_that_label_pixels(recipe: Path, tmp_path: Path) -> None:
    classified = f"folder:{tmp_path}"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(8):
            Image.new("RGB", (32, 32)).save(tmp_path / name / f"{number}.png")
    loaded = replace(load_recipe(str(recipe)), data=classified, image_size=32)
    with pytest.raises(UserError, match=r"returns \(1, 2, 32, 32\) for one image"):
        make_plan(loaded, "cpu")
    with pytest.raises(UserError, match=r"dice = 1.*no masks"):
        make_plan(replace(loaded, dice=1.0), "cpu")
