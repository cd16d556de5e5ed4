"""Predictions of classifiers whose result shows how an image was read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from toy_classifiers import (
    CORNER,
    CORNERS,
    SHADE,
    SHADES,
    Corner,
    best,
    checkpoint,
    corner_image,
)

from compress.deployment.predict import Prediction, predict
from compress.deployment.write_predictions import to_json, write_csv
from compress.models.checkpoint import load
from compress.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "weights" / "sweep" / "fashion-mnist-10k.pth"
IMAGES = sorted((ROOT / "docs" / "images").glob("*.png"))


def test_images_are_read_at_most_one_batch_ahead() -> None:
    read: list[int] = []

    def images() -> Iterator[Image.Image]:
        for number in range(10):
            read.append(number)
            yield corner_image()

    stream = predict(CORNER, images(), batch_size=4)
    assert read == []
    next(stream)
    assert len(read) == 4
    assert len(list(stream)) == 9


def test_top_classes_are_sorted_and_at_most_all() -> None:
    (one,) = predict(SHADE, [Image.new("L", (4, 4), 200)], top=99)
    names, probabilities = zip(*one.top, strict=True)
    assert sorted(names) == sorted(SHADES)
    assert list(probabilities) == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1)
    assert [len(each.top) for each in predict(SHADE, [Image.new("L", (4, 4))], top=1)] == [1]


def test_a_path_and_a_loaded_file_give_the_same_predictions() -> None:
    by_path = list(predict(WEIGHTS, IMAGES))
    assert by_path == list(predict(load(WEIGHTS), IMAGES))
    assert len({prediction.top[0][0] for prediction in by_path}) > 5


def test_many_images_get_the_predictions_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the batch on in which images are many, no batch norm is left."""
    known = load(WEIGHTS)
    few = list(predict(known, IMAGES, top=10))
    monkeypatch.setattr("compress.deployment.predict.FUSE_FROM", 4)
    stream = predict(known, IMAGES, batch_size=2, top=10)
    many = [next(stream), next(stream)]
    monkeypatch.setattr(
        "torch.nn.functional.batch_norm", lambda *_, **__: pytest.fail("a batch norm is left")
    )
    many += stream
    assert len(many) == len(IMAGES)
    for a, b in zip(few, many, strict=True):
        assert dict(a.top) == pytest.approx(dict(b.top), abs=1e-5) and a.image == b.image


@pytest.mark.parametrize(
    ("shape", "count"),
    [((9, 9, 4), 1), ((9, 9, 2), 1), ((9, 9, 3), 1), ((9, 9), 1), ((7, 9, 9), 7)],
)
def test_an_array_with_channels_is_one_image(shape: tuple[int, ...], count: int) -> None:
    found = list(predict(CORNER, np.zeros(shape, np.uint8)))
    assert len(found) == count
    assert all(("RGB" in (each.error or "")) == (shape[-1] == 2) for each in found)


def test_an_array_that_may_be_one_image_or_four_is_refused() -> None:
    images = np.zeros((4, 9, 9), np.uint8)
    for kind in (images, torch.from_numpy(images)):
        with pytest.raises(UserError, match=r"\(1, 4, 9, 9\).*\(4, 9, 9, 1\)") as refused:
            predict(CORNER, kind)
        assert len(str(refused.value).splitlines()) == 1
        assert len(list(predict(CORNER, kind[..., None]))) == 4
        assert [each.error for each in predict(CORNER, kind[None])] == [None]
    grey = replace(SHADE, input_size=(1, 9, 9), mean=(0.5,), std=(0.5,))
    assert len(list(predict(grey, images))) == 4


def test_floats_of_one_call_are_on_one_scale() -> None:
    """A nearly black image of 0 and 1 among images of 0 to 255 is not a bright one."""
    dark, bright = np.zeros((2, 1, 6, 6), np.float32)
    dark[..., ::2], bright[:] = 1, 255
    together = np.stack([dark, bright])
    for images in (together, torch.from_numpy(together), [dark, bright], [bright, dark[0]]):
        shades = {each.top[0][0] for each in predict(SHADE, images)}
        assert shades == {SHADES[0], SHADES[-1]}
    assert list(predict(SHADE, together[:0])) == []
    [alone] = predict(SHADE, dark)
    assert alone.top[0][0] == SHADES[2]


def test_what_is_no_image_is_called_that() -> None:
    for odd, word in ((5, "int"), (b"abc", "bytes"), (None, "None")):
        with pytest.raises(UserError, match=f"{word}.* no image"):
            predict(SHADE, odd)  # type: ignore[arg-type]
    for odd, word in (([[0, 1], [2, 3]], "list"), ([b"abc"], "bytes"), ([3], "int")):
        errors = [each.error for each in predict(SHADE, odd)]  # type: ignore[arg-type]
        assert len(errors) == len(odd)
        assert all(each and word in each and "no image" in each for each in errors)


def test_model_of_the_checkpoint_does_not_change() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), Corner())
    known = checkpoint(model, CORNERS, centre=0)
    model.train()
    before = {key: (value.clone(), value.stride()) for key, value in model.state_dict().items()}
    assert len(list(predict(known, [corner_image()] * 300))) == 300
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key][0]) and value.stride() == before[key][1]


class Layouts(nn.Module):
    """A classifier that records the memory format of its convolution."""

    seen: ClassVar[list[bool]] = []

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        weight = self.conv.weight
        self.seen.append(weight.is_contiguous(memory_format=torch.channels_last))
        return self.conv(images).mean((2, 3))  # type: ignore[no-any-return]


def test_convolutions_are_channels_last_during_predictions() -> None:
    Layouts.seen.clear()
    next(predict(checkpoint(Layouts(), CORNERS), [corner_image()]))
    assert Layouts.seen == [True]


def test_image_without_a_name_is_a_dash(tmp_path: Path) -> None:
    corner_image().save(tmp_path / "corner.png")
    sources = [corner_image(), Image.open(tmp_path / "corner.png"), tmp_path / "corner.png"]
    names = [each.image for each in predict(CORNER, sources)]
    assert names == ["-", str(tmp_path / "corner.png"), str(tmp_path / "corner.png")]
    assert best(CORNER, *sources) == ["top left"] * 3


@pytest.mark.parametrize(
    ("option", "value"),
    [("top", 0), ("batch_size", 0), ("device", "cuda:99"), ("device", "toaster")],
)
def test_wrong_option_is_refused_at_the_call(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=option) as error:
        predict(CORNER, [], **{option: value})
    assert "\n" not in str(error.value)


def test_missing_weights_file_is_refused_at_the_call(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        predict(tmp_path / "none.pth", [])


PREDICTIONS = (
    Prediction("a, b.png", (("cat", 0.75), ("dog", 0.25))),
    Prediction("bad\udc80.png", (), "no such file"),
)


def test_json_has_an_entry_per_image() -> None:
    assert json.loads(to_json(PREDICTIONS)) == [
        {
            "image": "a, b.png",
            "top": [{"class": "cat", "probability": 0.75}, {"class": "dog", "probability": 0.25}],
        },
        {"image": "bad\udc80.png", "top": [], "error": "no such file"},
    ]
    assert json.loads(to_json([])) == []


def test_csv_has_a_line_per_class(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_csv(PREDICTIONS, path)
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [
            ["image", "rank", "class", "probability", "error"],
            ["a, b.png", "1", "cat", "0.75", ""],
            ["a, b.png", "2", "dog", "0.25", ""],
            ["bad\udc80.png", "", "", "", "no such file"],
        ]


def test_interrupted_csv_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_csv(PREDICTIONS[:1], path)
    old = path.read_bytes()

    def interrupted() -> Iterator[Prediction]:
        yield PREDICTIONS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv(interrupted(), path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


def test_csv_through_a_link_replaces_its_target(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    write_csv(PREDICTIONS[:1], target)
    old = target.read_bytes()
    link.symlink_to(target)
    write_csv(PREDICTIONS, link)
    assert link.is_symlink() and target.read_bytes() != old
    assert target.read_bytes().startswith(b"image,rank")


def test_csv_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "out.csv", Path("/dev/null")):
        with pytest.raises(UserError, match=f"{path}: cannot be written"):
            write_csv(PREDICTIONS, path)
