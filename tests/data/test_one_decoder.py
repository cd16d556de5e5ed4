"""Training reads image files as `predict` does: turned, scaled to 8 bits, over one background."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from compress.data.batches import plain_batches
from compress.data.dataset import Dataset
from compress.data.open_dataset import open_dataset
from compress.deployment.predict import predict, prepare
from compress.models.checkpoint import Checkpoint
from compress.pipeline.adopt import adopt
from compress.recipe.model_spec import ModelSpec
from compress.reporting.evaluation import score_test_split
from compress.runtime.errors import UserError
from compress.training.classification import Classification
from compress.training.evaluate import measure_accuracy

SIDE = 64
CLASSES = ("bottom", "top")


class UpperHalf(nn.Module):
    """Tells whether the upper half of an image is the brighter one; there is nothing to train."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.sign = nn.Conv2d(1, num_classes, 1, bias=False)
        self.sign.weight.data = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        middle = images.shape[2] // 2
        upper, lower = images[:, :, :middle].mean((1, 2, 3)), images[:, :, middle:].mean((1, 2, 3))
        return self.sign((upper - lower).view(-1, 1, 1, 1)).flatten(1)


def draw_half(upper: int, random: np.random.Generator) -> np.ndarray:
    """Draw noise whose upper or lower half is bright, uint8 (SIDE, SIDE)."""
    image = random.integers(0, 40, (SIDE, SIDE))
    image[: SIDE // 2 if upper else None][0 if upper else SIDE // 2 :] += 180
    return image.astype(np.uint8)


def save_turned(pixels: np.ndarray, path: Path) -> None:
    """Save a photo of which EXIF says that it is upside down."""
    exif = Image.Exif()
    exif[0x0112] = 3
    photo = Image.fromarray(pixels).convert("RGB").rotate(180)
    photo.save(path.with_suffix(".jpg"), exif=exif, quality=95)


def save_sixteen_bit(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels.astype(np.uint16) * 200 + 2000).save(path.with_suffix(".png"))


def save_transparent(pixels: np.ndarray, path: Path) -> None:
    """Save a shape that is in the alpha channel alone."""
    shape = Image.new("RGBA", (SIDE, SIDE), (200, 200, 200))
    shape.putalpha(Image.fromarray(pixels))
    shape.save(path.with_suffix(".png"))


def save_palette(pixels: np.ndarray, path: Path) -> None:
    palette = Image.fromarray(pixels).convert("P")
    palette.save(path.with_suffix(".png"), transparency=bytes(range(255, -1, -1)))


def save_cmyk(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels).convert("CMYK").save(path.with_suffix(".jpg"), quality=95)


Save = Callable[[np.ndarray, Path], None]
SAVES = (save_turned, save_sixteen_bit, save_transparent, save_palette, save_cmyk)


def write_halves(root: Path, save: Save) -> str:
    """Write 40 images; return the name of the data set."""
    random = np.random.default_rng(0)
    for upper, label in enumerate(CLASSES):
        (root / label).mkdir(parents=True)
        for number in range(20):
            save(draw_half(upper, random), root / label / str(number))
    return f"folder:{root}"


def known_by(data: Dataset) -> Checkpoint:
    size = (3, data.image_size, data.image_size)
    return Checkpoint(
        UpperHalf(),
        ModelSpec("halves:UpperHalf"),
        data.classes,
        size,
        data.mean,
        data.std,
        data.name,
        crop_ratio=data.crop_ratio,
        background=data.background,
    )


def accuracies(data: Dataset) -> list[float]:
    """Return the accuracy by training's reader, in each split, and by `predict`."""
    checkpoint, task = known_by(data), Classification(2)
    pools = (data.train, data.val, data.test())
    batches = [plain_batches(data, pool, batch_size=50) for pool in pools]
    scores = [measure_accuracy(checkpoint.model, each, task) for each in batches]
    correct, total = score_test_split(checkpoint)
    files = sorted(Path(data.name.removeprefix("folder:")).rglob("*.*"))
    found = list(predict(checkpoint, files, top=1))
    right = sum(one.top[0][0] == file.parent.name for one, file in zip(found, files, strict=True))
    return [*scores, int(correct.sum()) / int(total.sum()), right / len(files)]


@pytest.mark.parametrize("image_size", [SIDE, 28, 224])
@pytest.mark.parametrize("save", SAVES)
def test_training_and_predict_see_images_as_they_look(
    tmp_path: Path, save: Save, image_size: int
) -> None:
    name = write_halves(tmp_path, save)
    # A shape in the alpha channel is bright on black; where the palette is opaque, it is dark.
    background = "black" if save is save_transparent else None
    data = open_dataset(name, image_size=image_size, background=background)
    assert accuracies(data) == [1.0] * 5


@pytest.mark.parametrize("background", ["white", "black", "#808000"])
def test_transparent_parts_are_the_same_to_training_and_predict(
    tmp_path: Path, background: str
) -> None:
    name = write_halves(tmp_path, save_transparent)
    data = open_dataset(name, image_size=SIDE, background=background)
    data = data.normalized((0.5,) * 3, (0.5,) * 3)
    batch = next(plain_batches(data, data.train, batch_size=30))
    assert not isinstance(data.train_images, tuple)
    files = [data.train_images.root / each for each in data.train_images.names]
    prepared = torch.cat([prepare(files[row], known_by(data)) for row in batch.rows])
    torch.testing.assert_close(batch.images, prepared, atol=1e-5, rtol=0)
    other = replace(known_by(data), background="#123456")
    again = torch.cat([prepare(files[row], other, background=background) for row in batch.rows])
    assert torch.equal(again, prepared)
    assert not torch.equal(prepare(files[0], other), prepared[:1])


def test_the_ground_is_white_unless_said_and_black_for_fashion_mnist(tmp_path: Path) -> None:
    name = write_halves(tmp_path, save_transparent)
    assert open_dataset(name).background == "#ffffff"
    assert open_dataset("fashion-mnist").background == "#000000"
    assert open_dataset("fashion-mnist", background="red").background == "#ff0000"
    with pytest.raises(UserError, match=r"background.*'blurple'"):
        open_dataset(name, background="blurple")
    with pytest.raises(UserError, match=r"background.*'blurple'"):
        predict(known_by(open_dataset(name)), [], background="blurple")


def test_adopt_records_how_images_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halves.py").write_text("from test_one_decoder import UpperHalf\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = write_halves(tmp_path / "images", save_transparent)
    for background, accuracy in (("black", 1.0), ("white", 0.0)):
        adopted, measured = adopt(
            UpperHalf().state_dict(),
            "halves:UpperHalf",
            name,
            image_size=32,
            background=background,
        )
        assert measured == accuracy and adopted.crop_ratio == 0.875
        images = sorted((tmp_path / "images").rglob("*.png"))
        found = [one.top[0][0] == Path(one.image).parent.name for one in predict(adopted, images)]
        assert sum(found) / len(found) == accuracy
