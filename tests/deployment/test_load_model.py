"""Exported files in `predict`, `compare` and scoring, and files of other programs."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from click.testing import CliRunner
from exported_files import Exported, save_foreign
from onnx import TensorProto, helper
from tiny import CLASSES, Tiny

import compress
from compress.cli.load import read_names
from compress.cli.main import main
from compress.deployment.load_model import Foreign, load_model
from compress.reporting.compare import compare_models
from compress.reporting.evaluation import score_test_split
from compress.runtime.errors import UserError


def test_exported_files_predict_what_the_network_predicts(exported: Exported, tiny: Tiny) -> None:
    images = sorted((tiny.data / "test").rglob("*.png"))[:20]
    for invert in (False, True):
        expected = list(compress.predict(exported.checkpoint, images, top=4, invert=invert))
        for result in (exported.onnx, exported.pixels):
            found = list(compress.predict(result.file, images, top=4, invert=invert))
            for ours, theirs in zip(expected, found, strict=True):
                assert dict(ours.top) == pytest.approx(dict(theirs.top), abs=1e-4)


def test_exported_files_score_and_compare_as_the_weights_do(exported: Exported) -> None:
    correct, total = score_test_split(exported.checkpoint)
    for result in (exported.onnx, exported.pixels):
        found = score_test_split(load_model(result.file))
        assert torch.equal(found[0], correct) and torch.equal(found[1], total)
    files = [exported.weights, exported.onnx.file, exported.pixels.file]
    reports = compare_models(files, builder="tinynets:student")
    assert len({(report.cost.params, report.cost.macs, report.test) for report in reports}) == 1
    assert [report.file_bytes for report in reports] == [path.stat().st_size for path in files]
    assert all(report.latency > 0 for report in reports)


@pytest.mark.parametrize(
    ("shape", "outputs"),
    [
        (("n", 3, 4, 4), ("y",)),
        (("n", 3, 4, 4), ("map",)),
        (("n", 3, 4, 4), ("label", "y")),
        ((1, 3, 4, 4), ("y",)),
        ((2, 3, 4, 4), ("map",)),
        (("n", 4, 4, 3), ("y",)),
        (("n", 3, "h", "w"), ("y",)),
        (("n", "c", "h", "w"), ("y",)),
    ],
)
def test_another_programs_file_is_used(
    shape: tuple[object, ...], outputs: tuple[str, ...], tmp_path: Path
) -> None:
    path = save_foreign(tmp_path / "other.onnx", shape, outputs=outputs)
    foreign = Foreign(("red", "green", "blue"), (0.0,), (1.0,), 4)
    images = torch.zeros(3, 3, 4, 4)
    images[0, 2], images[1, 0], images[2, 1] = 1, 1, 1
    found = load_model(path, foreign=foreign)
    assert found.input_size == (3, 4, 4) and found.mean == (0, 0, 0)
    assert found.model(images).argmax(1).tolist() == [2, 0, 1]


def test_probabilities_and_pixels_of_another_program(tmp_path: Path) -> None:
    plain = load_model(save_foreign(tmp_path / "a.onnx"))
    soft = load_model(save_foreign(tmp_path / "b.onnx", last="Softmax"))
    images = torch.rand(5, 3, 4, 4)
    expected = plain.model(images).softmax(1)
    torch.testing.assert_close(soft.model(images).softmax(1), expected)
    assert plain.classes == ("0", "1", "2")
    pixels = load_model(save_foreign(tmp_path / "c.onnx", dtype=TensorProto.UINT8))
    assert pixels.mean == (0, 0, 0) and pixels.std == (1, 1, 1)
    torch.testing.assert_close(
        pixels.model(torch.full((1, 3, 4, 4), 100 / 255)), torch.full((1, 3), 100.0)
    )


@pytest.mark.parametrize(
    ("shape", "foreign", "message"),
    [
        (("n", 3, 4, 4), Foreign(("a", "b")), "3 classes.*2"),
        (("n", 3, "h", "w"), Foreign(), "--image-size"),
        (("n", 3, 4, 4), Foreign(image_size=8), "4×4.*--image-size 8"),
        (("n", 7, 4, 4), Foreign(), r"\[.*7, 4, 4\]"),
        (("n", 3, "h", "w"), Foreign(image_size=5000), "input_size.*5000"),
        (("n", 3, 4, 4), Foreign(std=(0.0,)), r"std = \(0.0,\)"),
        (("n", 3, 4, 4), Foreign(mean=(0.5, 0.5)), r"mean = \(0.5, 0.5\)"),
        (("n", 3, 4, 4), Foreign(mean=(float("nan"),)), "mean = .*nan"),
    ],
)
def test_what_is_no_classifier_of_images_is_refused(
    shape: tuple[object, ...], foreign: Foreign, message: str, tmp_path: Path
) -> None:
    path = save_foreign(tmp_path / "other.onnx", shape)
    with pytest.raises(UserError, match=f"other.onnx: .*{message}") as refused:
        load_model(path, foreign=foreign)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"not onnx", bytes(range(256)) * 40])
def test_damaged_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    refused = CliRunner().invoke(main, ["predict", "-w", str(path), str(path)])
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith(f"error: {path}: ")


@pytest.mark.parametrize(
    "change", [{"classes": []}, {"input_size": [3, 0, 4]}, {"mean": "0.5"}, {"unknown": 1}]
)
def test_damaged_description_is_refused(
    change: dict[str, object], exported: Exported, tmp_path: Path
) -> None:
    model = onnx.load(exported.onnx.file)
    about = json.loads(model.metadata_props[0].value) | change
    helper.set_model_props(model, {"compress": json.dumps(about)})
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(UserError, match=f"model.onnx: .*{next(iter(change))}"):
        load_model(tmp_path / "model.onnx")


def test_file_that_gives_only_labels_is_refused(tmp_path: Path) -> None:
    path = save_foreign(tmp_path / "other.onnx", outputs=("label",))
    with pytest.raises(UserError, match=r"not a classifier.*label.*int64"):
        load_model(path)


def test_flags_describe_another_programs_file(tmp_path: Path, tiny: Tiny) -> None:
    path = save_foreign(tmp_path / "other.onnx", classes=4)
    image = sorted((tiny.data / "test").rglob("*.png"))[0]
    flags = ["--classes", ",".join(CLASSES), "--mean", "0.5", "--std", "0.5"]
    shown = CliRunner().invoke(main, ["predict", "-w", str(path), str(image), *flags, "--json"])
    assert shown.exit_code == 0, shown.output
    assert {each["class"] for each in json.loads(shown.stdout)[0]["top"]} <= set(CLASSES)
    asked = CliRunner().invoke(main, ["predict", "-w", str(path), *flags])
    assert asked.exit_code == 2 and "--data" in asked.stderr
    scored = CliRunner().invoke(
        main, ["predict", "-w", str(path), *flags, "--data", f"folder:{tiny.data}"]
    )
    assert scored.exit_code == 0 and "all" in scored.stdout


@pytest.mark.parametrize("flag", ["--mean", "--std"])
@pytest.mark.parametrize("values", ["0.5,0.5", "1,2,3,4", "nan", "half"])
def test_channels_have_one_value_or_three(flag: str, values: str) -> None:
    refused = CliRunner().invoke(main, ["predict", "-w", "none.onnx", "a.png", flag, values])
    assert refused.exit_code == 2 and flag in refused.stderr and values in refused.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", "red\ngreen, or blue\n\nblue\n"), ("a.json", '["red", "green, or blue", "blue"]')],
)
def test_classes_are_read_from_a_file(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert read_names(str(tmp_path / name)) == ["red", "green, or blue", "blue"]


def test_a_list_of_names_may_be_longer_than_a_path() -> None:
    names = [f"class {number}" for number in range(1000)]
    assert read_names(",".join(names)) == names


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"red": 1}', "[", b"\xff\xfe\x00"])
def test_file_without_classes_is_refused(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=r"classes\.txt: ") as refused:
        read_names(str(path))
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"none\.txt: no such file"):
        read_names("none.txt")
