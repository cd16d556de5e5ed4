"""A run on masks, from images to a pruned network, its predictions and its exported file."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from mask_files import CLASSES, NETWORKS, RECIPE, SIDE, save_mask, write_masks
from PIL import Image
from tiny import Interrupted, InterruptIn, Tiny

import compress
from compress.cli.main import main
from compress.models.build import import_builder
from compress.models.checkpoint import load
from compress.models.smp_networks import build_smp
from compress.pipeline.plan import make_plan
from compress.pipeline.run import RunResult
from compress.quantization.finetune import finetune_for_int8
from compress.recipe.load import load_recipe
from compress.recipe.schema import Recipe
from compress.recipe.stages import Quantize
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
    before = large.read_bytes()
    refused = call("predict", large, *command[3:5], "--out", tmp_path, *command[-2:], code=2)
    assert "wide.png is one of the images" in refused.stderr and large.read_bytes() == before
    [found] = compress.predict(done.load(), [str(image)], top=3)
    assert found.top[0] == ("ground", pytest.approx(float((mask == 0).mean())))


@pytest.fixture(scope="module")
def exported(done: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("exported") / "unet.onnx"
    assert compress.export(done.load(), "onnx", out, uint8=True).agreement > 0.999
    return out


@pytest.fixture(scope="module")
def rounded(done: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as int8, fine-tuned for it for a few steps."""
    pytest.importorskip("onnxruntime")
    out, lines = tmp_path_factory.mktemp("rounded") / "unet.int8.onnx", list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetune_for_int8, "__kwdefaults__", {"steps": 10})
        made = compress.quantize(done.load(), out, finetune=True, log=lines.append)
    assert "mIoU" in made.describe() and made.drop < 5 and "fine-tuning" in lines[0]
    return out


@pytest.mark.slow
def test_an_exported_file_labels_the_same_pixels(done: RunResult, exported: Path) -> None:
    random = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    masks = [
        next(iter(compress.predict(model, [random]))).mask for model in (done.load(), exported)
    ]
    assert masks[0] is not None and masks[1] is not None
    assert (masks[0] == masks[1]).float().mean() > 0.99


def call(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == code, result.output
    return result


@pytest.mark.slow
def test_eval_measures_ious_of_any_file(
    done: RunResult, exported: Path, rounded: Path, tmp_path: Path
) -> None:
    builder, table = ("--builder", "tinyunets:student"), tmp_path / "classes.csv"
    found = json.loads(call("eval", "-w", done.model, *builder, "--csv", table, "--json").stdout)
    assert found["miou"] == pytest.approx(done.results[-1].test, abs=1e-5)
    assert [row["name"] for row in found["per_class"]] == list(CLASSES) and found["images"] == 24
    assert table.read_text().startswith("class,pixels,iou,precision,recall,predicted ground")
    names = [Path(image["path"]).name for image in found["worst"]]
    shown = call("eval", "-w", done.model, *builder).output
    assert "mIoU %" in shown and f"{100 * found['miou']:.2f}" in shown and names[0] in shown
    for file, allowed in ((exported, 0.002), (rounded, 0.1)):
        assert abs(compress.evaluate(file).to_dict()["miou"] - found["miou"]) < allowed
    listed = call("predict", "-w", rounded).output
    assert "IoU" in listed and "disc" in listed
    refused = call("eval", "-w", done.model, *builder, "--calibrate", code=2).stderr
    assert "classifies images; this one labels pixels" in refused
    assert done.load().temperature == 1


@pytest.mark.slow
def test_classes_may_be_numbered_otherwise(done: RunResult, recipe: Path, tmp_path: Path) -> None:
    """The same masks under other numbers score the same; other labels are refused."""
    trained, other = done.load(), tmp_path / "other"
    shutil.copytree(recipe.parent / "data", other)
    (other / "classes.txt").write_text("\n".join(reversed(CLASSES)))
    for file in other.glob("*/masks/*.png"):
        save_mask(2 - np.array(Image.open(file)), file)
    found = compress.evaluate(trained, f"masks:{other}", worst=0).to_dict()
    assert found["per_class"] == compress.evaluate(trained, worst=0).to_dict()["per_class"]
    (other / "classes.txt").write_text("ground\ndisc\ncone")
    with pytest.raises(UserError, match="no 'cone'"):
        compress.evaluate(trained, f"masks:{other}")
    with pytest.raises(UserError, match="the network labels pixels"):
        compress.evaluate(trained, f"folder:{other / 'test'}")


@pytest.mark.slow
def test_reports_and_cards_speak_of_masks(done: RunResult, tmp_path: Path) -> None:
    builders = ("tinyunets:teacher", "tinyunets:student")
    page = compress.report(done.model.parent, tmp_path / "page.html", builders=builders).read_text()
    assert "validation mIoU" in page and "IoU %" in page and "For the teacher, the mIoU is" in page
    assert page.count('<ul class="pictures masks">') == 1 and "data:image/png" in page
    card = call("card", "-w", done.model, "--builder", "tinyunets:student").output
    assert "pipeline_tag: image-segmentation" in card and "mean_iou" in card
    assert "accuracy" not in card.replace("less accurately", "")
    words = ("-w", done.model, "--builder", "tinyunets:student", "--remove", "50")
    analysed = call("analyze", *words).output
    assert "mIoU in percent" in analysed and "accuracy" not in analysed


@pytest.mark.slow
def test_a_network_from_elsewhere_is_adopted(done: RunResult, recipe: Path, tmp_path: Path) -> None:
    trained, file = done.load(), tmp_path / "mine.pt"
    teacher_network = import_builder("tinyunets:teacher")
    teacher = load(done.model.parent / done.results[0].checkpoint, teacher_network)
    torch.save({"model": teacher.model.state_dict()}, file)
    words = ("--data", trained.data, "--image-size", SIDE, "--out", tmp_path / "adopted.pth")
    for key, values in (("--mean", teacher.mean), ("--std", teacher.std)):
        words += (key, ",".join(f"{value:.6f}" for value in values))
    shown = call("adopt", file, "--builder", "tinyunets:teacher", *words).output
    [score] = re.findall(r"([\d.]+) % mIoU", shown)
    assert float(score) == pytest.approx(100 * done.results[0].val, abs=0.2)
    adopted = load(tmp_path / "adopted.pth", teacher_network)
    assert adopted.labels == "pixels" and adopted.classes == CLASSES
    wrong = call("adopt", file, "--network", "smp:unet/resnet10", *words[:2], code=2).stderr
    assert "smp:unet/resnet10" in wrong


@pytest.mark.slow
def test_killed_and_resumed_it_ends_the_same(done: RunResult, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for stage in ("distill", "finetune"):
        with pytest.raises(Interrupted):
            compress.run(recipe, out=out, device="cpu", events=InterruptIn(stage, 2))
    again = compress.run(recipe, out=out, device="cpu")
    theirs = done.load().model.state_dict()
    for key, tensor in again.load().model.state_dict().items():
        assert torch.equal(tensor, theirs[key]), key
    assert [(r.val, r.test) for r in again.results] == [(r.val, r.test) for r in done.results]


@pytest.mark.slow
def test_minutes_and_a_quantize_stage(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    asked = load_recipe(str(recipe))
    stages = (*asked.stages, Quantize(max_drop=50.0))
    made = compress.run(replace(asked, minutes=0.05, stages=stages), out=tmp_path / "run")
    last = made.results[-1]
    assert last.kind == "quantize" and last.metric == "mIoU" and last.bytes
    scored = compress.evaluate(tmp_path / "run" / "model.int8.onnx").to_dict()["miou"]
    assert scored == pytest.approx(last.test, abs=1e-5)


def test_weights_of_an_encoder_need_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"'smp:unet/resnet18'.*cannot be downloaded") as caught:
        build_smp("smp:unet/resnet18", 3, pretrained=True)
    assert "\n" not in str(caught.value)


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
