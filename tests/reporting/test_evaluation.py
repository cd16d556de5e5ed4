"""Scores by class, on images whose corner is known and on a test split."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import CLASSES, Tiny, own_model
from torch.utils.data import Dataset
from toy_classifiers import SHADE

import compress
from compress.data.batches import plain_batches
from compress.deployment.predict import predict, prepare
from compress.models import checkpoint
from compress.reporting.evaluation import evaluate, open_split, score_test_split
from compress.runtime.errors import UserError


def test_test_split_is_scored_completely(tiny: Tiny, weights: Path) -> None:
    loaded = checkpoint.load(weights)
    correct, total = score_test_split(loaded, f"folder:{tiny.data}")
    assert total.tolist() == [20] * len(CLASSES)
    # The network is untrained: it predicts one class nearly always.
    assert bool((correct <= total).all()) and 0 < int(correct.sum()) < 80
    assert correct.dtype == total.dtype == torch.int64
    again = score_test_split(loaded)
    assert torch.equal(correct, again[0]) and torch.equal(total, again[1])


def test_evaluation_agrees_with_the_counts_and_names_the_files(tiny: Tiny, untrained: Path) -> None:
    loaded = own_model(untrained)
    correct, total = score_test_split(loaded)
    found = evaluate(loaded, worst=80)
    assert (found.data, found.split, found.classes) == (f"folder:{tiny.data}", "test", CLASSES)
    assert found.images == 80 and found.top1 == int(correct.sum()) / 80
    assert [row[number] for number, row in enumerate(found.confusion)] == correct.tolist()
    assert [row.images for row in found.per_class] == total.tolist()
    assert len(found.worst) == 80 - int(correct.sum())
    for image in found.worst:
        assert (
            image.path is not None and Path(image.path).parent == tiny.data / "test" / image.label
        )
    paths = [image.path for image in found.worst]
    for image, prediction in zip(found.worst, predict(loaded, paths, top=4), strict=True):
        assert prediction.top[0] == (image.predicted, pytest.approx(image.probability, abs=1e-5))


def test_validation_split_is_that_of_the_training(finished: Path) -> None:
    model = own_model(finished / "model.pth")
    results = json.loads((finished / "run.json").read_text())["stages"]
    lines: list[str] = []
    found = evaluate(model, split="val", log=lines.append)
    assert (found.split, found.images) == ("val", 22)
    assert found.top1 == pytest.approx(results[-1]["val"]) and lines == []
    assert evaluate(model).top1 == pytest.approx(results[-1]["test"])
    # A file that does not say what it held out.
    unknown = evaluate(replace(model, origin={}), split="val", log=lines.append)
    assert unknown.images == 22 and len(lines) == 1 and "validation" in lines[0]


def test_what_training_left_out_is_left_out_of_its_own_data(
    tiny: Tiny, weights: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny.data, tmp_path / "images")
    broken = sorted((tmp_path / "images" / "test").rglob("*.*"))[0]
    broken.write_bytes(b"<html>404</html>")
    origin = {"recipe": {"skip_broken": True}}
    known = replace(checkpoint.load(weights), data=f"folder:{tmp_path / 'images'}", origin=origin)
    lines: list[str] = []
    assert evaluate(known, log=lines.append).images == 79
    assert "left out" in lines[-1]
    with pytest.raises(UserError, match=broken.name):
        evaluate(replace(known, origin={}))


def test_data_in_memory_is_scored_as_its_files_are(tiny: Tiny, untrained: Path) -> None:
    loaded = own_model(untrained)
    expected = evaluate(loaded)
    files = sorted((tiny.data / "test").rglob("*.png"))
    images = np.stack([np.asarray(Image.open(file)) for file in files])
    labels = [CLASSES.index(file.parent.name) for file in files]
    alone = evaluate(loaded, (images, labels))
    assert alone.images == 80 and alone.confusion == expected.confusion
    assert alone.log_loss == pytest.approx(expected.log_loss, abs=1e-5)
    assert alone.worst[0].path is None and alone.worst[0].name == f"image {alone.worst[0].index}"
    # Normalized images, with names of the classes.
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (loaded.mean, loaded.std))
    normalized = (images.transpose(0, 3, 1, 2) / 255 - mean) / std
    names = [CLASSES[label] for label in labels]
    assert evaluate(loaded, (normalized, names)).confusion == expected.confusion
    # Splits: training images are not scored.
    pair = ((images[:60], labels[:60]), (images[60:], labels[60:]))
    assert evaluate(loaded, pair).images == evaluate(loaded, pair, split="val").images == 20
    with pytest.raises(UserError, match="none of 4 classes"):
        evaluate(loaded, (images, [7] * 80))
    with pytest.raises(UserError, match="folder:"):
        evaluate(loaded, tiny.data)


class Photos(Dataset[Any]):
    """Items with classes of their own, all of one colour with transparent corners."""

    def __init__(self, classes: tuple[str, ...], labels: list[str]) -> None:
        self.classes, self.labels = classes, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        image = Image.new("RGBA", (16, 16))
        image.paste((200, 20 * row, 90, 255), (4, 4, 16, 16))
        return image, self.classes.index(self.labels[row])


def test_classes_of_a_data_set_in_memory_are_found_by_their_names(untrained: Path) -> None:
    """Some are missing in the data, and its numbers are others."""
    loaded = own_model(untrained)
    some = (CLASSES[3], CLASSES[1])
    found = evaluate(loaded, Photos(some, [CLASSES[3]] * 3 + [CLASSES[1]]))
    assert [row.images for row in found.per_class] == [0, 1, 0, 3]
    with pytest.raises(UserError, match="'made up'"):
        evaluate(loaded, Photos(("made up", *some), ["made up"]))


def test_transparent_parts_in_memory_have_the_background_of_the_network(untrained: Path) -> None:
    photos = Photos(CLASSES, [*CLASSES])
    for background in ("#000000", "#ffffff"):
        loaded = replace(own_model(untrained), background=background)
        opened = open_split(loaded, photos)
        [batch] = plain_batches(opened, opened.test(), batch_size=9)
        expected = [prepare(photos[row][0], loaded)[0] for row in range(len(photos))]
        assert torch.allclose(batch.images, torch.stack(expected), atol=1e-5)


def test_data_with_other_classes_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"classes.*made up"):
        score_test_split(SHADE, f"folder:{tiny.data}")


def test_a_stage_at_another_size_says_that_the_run_scaled_its_images(finished: Path) -> None:
    lines: list[str] = []
    small = own_model(finished / "stages" / "02-distill.pth")
    assert small.input_size == (3, 8, 8)
    compress.evaluate(small, split="val", log=lines.append)
    [line] = [each for each in lines if "8 pixels" in each]
    assert "scaled its images of 16 pixels" in line
    lines.clear()
    compress.evaluate(own_model(finished / "model.pth"), split="val", log=lines.append)
    assert lines == []
