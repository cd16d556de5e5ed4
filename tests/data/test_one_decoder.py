"""Training reads image files as `predict` does: turned, scaled to 8 bits, over one background."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress.data.batches import plain_batches
from compress.data.dataset import open_dataset
from compress.data.decode import read_image
from compress.deployment.predict import prepare
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec

SIZE = 32


def pixels() -> np.ndarray:
    """Return noise that is bright above and dark below, uint8 (SIZE, SIZE)."""
    image = np.random.default_rng(0).integers(0, 40, (SIZE, SIZE))
    image[: SIZE // 2] += 180
    return image.astype(np.uint8)


def save_turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels()).convert("RGB").rotate(180).save(path.with_suffix(".png"), exif=exif)


def save_sixteen_bit(path: Path) -> None:
    Image.fromarray(pixels().astype(np.uint16) * 200 + 2000).save(path.with_suffix(".png"))


def save_transparent(path: Path) -> None:
    """The shape is in the alpha channel alone."""
    shape = Image.new("RGBA", (SIZE, SIZE), (200, 200, 200))
    shape.putalpha(Image.fromarray(pixels()))
    shape.save(path.with_suffix(".png"))


def save_palette(path: Path) -> None:
    Image.fromarray(pixels()).convert("P").save(path.with_suffix(".png"), transparency=0)


@pytest.mark.parametrize("save", [save_turned, save_sixteen_bit, save_transparent, save_palette])
def test_training_and_predict_see_the_same_image(
    tmp_path: Path, save: Callable[[Path], None]
) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(10):
            save(tmp_path / label / str(number))
    data = open_dataset(f"folder:{tmp_path}", image_size=SIZE).normalized((0.5,) * 3, (0.5,) * 3)
    batch = next(plain_batches(data, data.train, batch_size=8))
    spec, size = ModelSpec("resnet18"), (3, SIZE, SIZE)
    known = Checkpoint(torch.nn.Identity(), spec, ("a", "b"), size, data.mean, data.std, "folder")
    image = prepare(read_image(tmp_path / "a" / "0.png"), known)
    torch.testing.assert_close(batch.images[0], image, atol=1e-5, rtol=0)
    upper, lower = batch.images[0, :, : SIZE // 2].mean(), batch.images[0, :, SIZE // 2 :].mean()
    assert upper - lower > 0.5
