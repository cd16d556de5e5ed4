"""Predicted masks and overlays replace no images, no other files, and not each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from compress.deployment.predict import Prediction
from compress.deployment.write_masks import write_masks
from compress.runtime.errors import UserError


def predict(*images: Path) -> list[Prediction]:
    """Save images of one colour, and predict class 1 for each of their pixels."""
    for image in images:
        image.parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 4), "red").save(image)
    mask = torch.ones(4, 4, dtype=torch.uint8)
    return [Prediction(str(image), (), mask=mask) for image in images]


def test_an_image_that_could_not_be_read_has_no_mask(tmp_path: Path) -> None:
    made = [*predict(tmp_path / "cat.png"), Prediction(str(tmp_path / "dog.png"), (), "damaged")]
    assert write_masks(made, tmp_path / "out") == [tmp_path / "out" / "cat.png"]
    written = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert written == ["cat-overlay.png", "cat.png"]


@pytest.mark.parametrize("out", ["photos", "photos/../photos", "link"])
@pytest.mark.parametrize("names", [["cat.png"], ["cat-overlay.png", "cat.jpg"]])
def test_no_image_is_replaced(out: str, names: list[str], tmp_path: Path) -> None:
    made = predict(*(tmp_path / "photos" / name for name in names))
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    before = [(tmp_path / "photos" / name).read_bytes() for name in names]
    with pytest.raises(UserError, match=r"--out: .*cat.*png"):
        write_masks(made, tmp_path / out)
    assert [(tmp_path / "photos" / name).read_bytes() for name in names] == before
    assert len(list((tmp_path / "photos").iterdir())) == len(names)


def test_an_image_that_could_not_be_read_is_not_replaced_either(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_text("damaged")
    made = [Prediction(str(tmp_path / "cat.png"), (), "damaged")]
    with pytest.raises(UserError, match=r"cat\.png is one of the images"):
        write_masks(made, tmp_path)


@pytest.mark.parametrize("names", [["a/cat.png", "b/cat.jpg"], ["a/cat.png", "a/cat-overlay.png"]])
def test_two_images_have_two_files(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"two images .*cat(-overlay)?\.png"):
        write_masks(predict(*(tmp_path / name for name in names)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cat.png", "cat-overlay.png"])
@pytest.mark.parametrize("kind", ["image", "text", "folder", "link"])
def test_a_file_of_others_is_not_replaced(name: str, kind: str, tmp_path: Path) -> None:
    made, file = predict(tmp_path / "photos" / "cat.jpg"), tmp_path / "masks" / name
    file.parent.mkdir()
    if kind == "image":
        Image.new("P", (6, 4)).save(file)
    elif kind == "text":
        file.write_text("")
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("missing")
    with pytest.raises(UserError, match=rf"--out: .*{name} exists"):
        write_masks(made, tmp_path / "masks")
    assert list(file.parent.iterdir()) == [file]


def test_older_masks_are_replaced(tmp_path: Path) -> None:
    made = predict(tmp_path / "cat.jpg")
    [file] = write_masks(made, tmp_path / "out")
    zeros = [replace(each, mask=torch.zeros(4, 4, dtype=torch.uint8)) for each in made]
    assert write_masks(zeros, tmp_path / "out") == [file]
    assert Image.open(file).convert("RGB").getpixel((3, 2)) == (0, 0, 0)


def test_a_link_to_itself_among_the_images_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    made = [Prediction(str(tmp_path / "loop.png"), (), "damaged"), *predict(tmp_path / "cat.jpg")]
    assert write_masks(made, tmp_path / "out") == [tmp_path / "out" / "cat.png"]
