"""Images in, classes out: told by networks whose answer shows what they were given."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from seeing import CORNER, CORNERS, SHADE, SHADES, Corner, best, checkpoint, corner_image
from torch import nn

from compress.deployment.predict import Prediction, predict, prepare, score, to_json, write_csv
from compress.models.checkpoint import load
from compress.runtime.errors import UserError


def test_predict_reads_no_more_than_a_batch_ahead() -> None:
    taken: list[int] = []

    def images() -> Any:
        for number in range(10):
            taken.append(number)
            yield corner_image()

    stream = predict(CORNER, images(), batch=4)
    assert taken == []
    next(stream)
    assert len(taken) == 4
    assert len(list(stream)) == 9


def test_top_is_sorted_and_at_most_all_classes() -> None:
    (one,) = predict(SHADE, [Image.new("L", (4, 4), 200)], top=99)
    names, probabilities = zip(*one.top, strict=True)
    assert sorted(names) == sorted(SHADES) and sorted(probabilities, reverse=True) == list(
        probabilities
    )
    assert sum(probabilities) == pytest.approx(1)
    assert [len(p.top) for p in predict(SHADE, [Image.new("L", (4, 4))], top=1)] == [1]


def test_many_images_get_the_answers_that_few_get(monkeypatch: pytest.MonkeyPatch) -> None:
    """From so many images on, whatever the batch, batch norms are fuse_conv_bn; the network's own are far from identity."""
    root = Path(__file__).parent.parent
    known = load(root / "weights" / "sweep" / "fashion-mnist-10k.pth")
    images = sorted((root / "docs" / "images").glob("*.png"))
    few = list(predict(known, images, top=10))
    monkeypatch.setattr("compress.deployment.predict.FOLDING", 4)
    stream = predict(known, images, batch=2, top=10)
    many = [next(stream), next(stream)]
    monkeypatch.setattr(
        "torch.nn.functional.batch_norm", lambda *_, **__: pytest.fail("a batch norm is at work")
    )
    many += stream
    for a, b in zip(few, many, strict=True):
        assert dict(a.top) == pytest.approx(dict(b.top), abs=1e-5) and a.image == b.image


def test_predict_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), Corner())
    known = checkpoint(model, CORNERS, centre=0)
    model.train()
    assert best(known, corner_image()) == ["top left"]
    assert model.training and model[0].num_batches_tracked == 0


@pytest.mark.parametrize(
    "wrong", [{"top": 0}, {"batch_size": 0}, {"device": "cuda:99"}, {"device": "toaster"}]
)
def test_wrong_options_are_told_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError) as error:
        predict(CORNER, [], **wrong)
    assert "\n" not in str(error.value)


def test_a_missing_weights_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        predict(tmp_path / "none.pth", [])


def test_score_counts_by_class() -> None:
    pixels = torch.stack(
        [prepare(corner_image(box=box), CORNER) for box in ((0, 0, 20, 20), (20, 0, 40, 20))]
    )
    soft = torch.tensor([[0.6, 0.4, 0, 0], [0.3, 0, 0.7, 0]])
    batches = [
        SimpleNamespace(images=pixels, targets=soft),
        SimpleNamespace(images=pixels[:1], targets=soft[:1]),
    ]
    correct, total = score(CORNER.model, batches, 4)
    assert correct.tolist() == [2, 0, 0, 0] and total.tolist() == [2, 0, 1, 0]
    assert correct.dtype == total.dtype == torch.int64


ROWS = (
    Prediction("a, b.png", (("cat", 0.75), ("dog", 0.25))),
    Prediction("bad\udc80.png", (), "no such file"),
)


def test_json() -> None:
    assert json.loads(to_json(ROWS)) == [
        {
            "image": "a, b.png",
            "top": [{"class": "cat", "probability": 0.75}, {"class": "dog", "probability": 0.25}],
        },
        {"image": "bad\udc80.png", "top": [], "error": "no such file"},
    ]
    assert json.loads(to_json([])) == []


def test_csv_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write_csv(ROWS, path)
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [
            ["image", "rank", "class", "probability", "error"],
            ["a, b.png", "1", "cat", "0.75", ""],
            ["a, b.png", "2", "dog", "0.25", ""],
            ["bad\udc80.png", "", "", "", "no such file"],
        ]
    before = path.read_bytes()

    def broken() -> Any:
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_csv(broken(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    for wrong in (tmp_path, tmp_path / "none" / "out.csv", Path("/dev/null")):
        with pytest.raises(UserError, match="cannot be written"):
            write_csv(ROWS, wrong)
