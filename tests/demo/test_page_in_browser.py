"""A demo page in a real browser: the same logits as `predict`, no error, and no request aside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Visit, visit
from odd_names import HOSTILE
from PIL import Image

from compress.demo.static_page import write_static
from compress.demo.web_runtime import find_runtime
from compress.deployment.load_model import load_model
from compress.deployment.predict import prepare
from compress.models.build import import_builder
from compress.runtime.errors import UserError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's package chromium"),
]

ORIENTATION = 0x0112
# Part of the range of logits. JPEGs are decoded by the browser's own library, and large ones at a
# fraction of their size by ours.
JPEG_BOUND = 0.05


def draw(random: np.random.Generator, width: int, height: int, channels: int) -> np.ndarray:
    waves = np.add.outer(np.sin(np.arange(height) / 9), np.cos(np.arange(width) / 7))[..., None]
    noise = random.normal(0, 20, (height, width, channels)) + random.uniform(-50, 50, channels)
    return (128 + 50 * waves + noise).clip(0, 255).astype(np.uint8)


def write_images(folder: Path) -> None:
    """Write 50 images of many sizes and modes, 10 of them JPEGs, and a file that is no image."""
    random = np.random.default_rng(0)
    for number in range(10):
        largest = (12, 40, 130, 420, 700)[number % 5]
        width, height = (int(side) for side in random.integers(1, largest, 2))
        # Long ones, of which only the middle is resized.
        width = 9 * height if number == 7 else width
        pixels = draw(random, width, height, 4)
        image = Image.fromarray(pixels[..., :3])
        turned = Image.Exif()
        turned[ORIENTATION] = 1 + number % 8
        image.save(folder / f"rgb-{number}.png", exif=turned)
        Image.fromarray(pixels).save(folder / f"rgba-{number}.png")
        grey = image.convert("L")
        grey.save(folder / f"grey-{number}.png")
        palette = image.quantize(30)
        palette.save(
            folder / f"palette-{number}.png", **({"transparency": 3} if number % 2 else {})
        )
        image.save(folder / f"photo-{number}.jpg", exif=turned, quality=85)
    (folder / "broken.png").write_bytes((folder / "rgb-3.png").read_bytes()[:60])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder)
    return folder


@pytest.fixture(scope="module")
def visited(
    networks: tuple[Path, Path], images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Visit:
    try:
        find_runtime()
    except UserError as error:
        pytest.skip(f"no onnxruntime-web: {error}")
    folder = tmp_path_factory.mktemp("visited")
    write_static(networks, folder / "page", builders=["tinynets:student"])
    return visit(folder / "page", images, folder)


def test_logits_are_those_of_predict(
    visited: Visit, networks: tuple[Path, Path], images: Path
) -> None:
    builder = import_builder("tinynets:student")
    models = [load_model(file, builder) for file in networks]
    assert len(visited.answers) == 51 and "image" in visited.answers.pop("broken.png")
    for name, answers in visited.answers.items():
        for checkpoint, answer in zip(models, answers, strict=True):
            with torch.inference_mode():
                ours = checkpoint.model(prepare(images / name, checkpoint))[0].numpy()
            bound = JPEG_BOUND * np.ptp(ours) if name.endswith(".jpg") else 1e-3
            assert np.abs(ours - answer).max() <= bound, name
            assert name.endswith(".jpg") or np.argmax(answer) == ours.argmax(), name


def test_the_page_shows_names_as_text_and_asks_no_other_server(visited: Visit) -> None:
    assert visited.page["state"] == "ready" and visited.page["canvases"] == 2
    assert sorted(visited.page["names"]) == sorted(["a", "b", "c", "d", *HOSTILE])
    assert "model.pth" in visited.page["text"] and "grey.onnx" in visited.page["text"]
    assert visited.errors == [] and visited.requests == set()
