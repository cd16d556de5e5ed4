"""Networks that take grey images, of one channel: trained, distilled, pruned, saved, used."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import CLASSES, SIDE, draw
from torch import nn

import compress
from compress.data.batches import plain_batches
from compress.data.open_dataset import open_dataset
from compress.data.photo import Framing
from compress.data.pool import MemoryPool, open_pool
from compress.data.source import Files
from compress.deployment.predict import prepare
from compress.models.build import build, import_builder
from compress.models.channels import input_channels
from compress.models.checkpoint import Checkpoint
from compress.models.grey import fold_grey
from compress.pipeline.least_time import measure_stage_seconds
from compress.pipeline.plan import make_plan
from compress.pruning.pruner import prune
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec
from compress.reporting.evaluation import score_test_split
from compress.runtime.errors import UserError

NETWORKS = """
import torch
from torch import nn


def _net(channels, width, num_classes):
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, num_classes),
    )


def grey(num_classes):
    return _net(1, 16, num_classes)


def color(num_classes):
    return _net(3, 24, num_classes)


def five_channels(num_classes):
    return _net(5, 8, num_classes)


class Flat(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(256, num_classes)

    def forward(self, images):
        return self.fc(images.view(-1, 256))
"""

RECIPE = """
data = "folder:{data}"
image_size = 16
budget = "1500"
batch_size = 32
teacher = {{ name = "{teacher}" }}
student = {{ name = "{student}" }}
stages = [
    {{ kind = "teach", epochs = 2, optimizer = "adamw", lr = 5e-3 }},
    {{ kind = "distill", epochs = 2, optimizer = "adamw", lr = 5e-3, views = 2{method} }},
    {{ kind = "prune", samples = 64 }},
    {{ kind = "finetune", epochs = 2, lr = 0.02 }},
]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the module `greynets`, and with grey images of the tiny data set's classes."""
    root, random = tmp_path_factory.mktemp("grey"), np.random.default_rng(0)
    (root / "greynets.py").write_text(NETWORKS)
    for label in CLASSES:
        (root / "images" / label).mkdir(parents=True)
        for number in range(40):
            grey = Image.fromarray(draw(label, random)).convert("L")
            grey.save(root / "images" / label / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        yield root


def run(place: Path, out: Path, teacher: str, student: str, method: str = "") -> Checkpoint:
    """Run a recipe and return its final network."""
    recipe = out.with_suffix(".toml")
    names = {"teacher": f"greynets:{teacher}", "student": f"greynets:{student}"}
    recipe.write_text(RECIPE.format(data=place / "images", method=method, **names))
    result = compress.run(recipe, out=out)
    assert result.results[-1].params <= 1500
    return compress.load(result.model, import_builder(names["student"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("teacher", "student", "method"),
    [
        ("grey", "grey", ""),
        ("color", "grey", ""),
        ("grey", "color", ""),
        ("color", "grey", ', method = "attention", taps = ["0", "3"]'),
    ],
)
def test_run_with_grey_networks(
    teacher: str, student: str, method: str, place: Path, tmp_path: Path
) -> None:
    checkpoint = run(place, tmp_path / "run", teacher, student, method)
    channels = 1 if student == "grey" else 3
    assert checkpoint.input_size == (channels, SIDE, SIDE)
    assert len(checkpoint.mean) == len(checkpoint.std) == channels
    images = sorted((place / "images" / "blob").iterdir())
    shown = {prediction.top[0][0] for prediction in compress.predict(checkpoint, images)}
    assert shown <= set(CLASSES)
    assert int(score_test_split(checkpoint)[1].sum()) == 32


@pytest.mark.parametrize(("teacher", "student"), [("color", "grey"), ("grey", "color")])
def test_time_is_shared_out_among_networks_of_grey_and_of_color_images(
    teacher: str, student: str, place: Path, tmp_path: Path
) -> None:
    names = {"teacher": f"greynets:{teacher}", "student": f"greynets:{student}"}
    recipe = tmp_path / "run.toml"
    recipe.write_text(RECIPE.format(data=place / "images", method="", **names))
    plan = make_plan(load_recipe(str(recipe), {"minutes": 30}), "cpu")
    seconds = zip(plan.steps, measure_stage_seconds(plan).least, strict=True)
    assert all((least > 0) == (step.train is not None) for step, least in seconds)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_folded_network_is_distilled_from_and_pruned(
    role: str, place: Path, tmp_path: Path
) -> None:
    """A network by name, which is always built with three channels."""
    spec = ModelSpec("resnet18", "small")
    torch.manual_seed(0)
    model = prune(build(spec, 4), torch.zeros(1, 3, SIDE, SIDE), 6000).eval()
    name = f"folder:{place / 'images'}"
    color = Checkpoint(model, spec, CLASSES, (3, SIDE, SIDE), (0.4,) * 3, (0.3,) * 3, name)
    compress.save(fold_grey(color)[0], tmp_path / "folded.pth")
    (tmp_path / "run.toml").write_text(
        RECIPE.format(
            data=place / "images", method="", teacher="greynets:color", student="greynets:color"
        )
    )
    keys = {role: tmp_path / "folded.pth", "budget": 1500 if role == "teacher" else 3000}
    result = compress.run(tmp_path / "run.toml", out=tmp_path / "run", **keys)
    last = compress.load(result.model, import_builder("greynets:color"))
    assert last.input_size == (3 if role == "teacher" else 1, SIDE, SIDE)
    assert result.results[-1].params <= keys["budget"]


@pytest.mark.parametrize("channels", [1, 3])
def test_training_and_predict_read_grey_images_alike(channels: int, place: Path) -> None:
    """Values of each channel are normalized by the channel's own numbers."""
    mean, std = (0.3, 0.4, 0.5)[:channels], (0.2, 0.3, 0.4)[:channels]
    data = open_dataset(f"folder:{place / 'images'}", image_size=SIDE).normalized(mean, std)
    data = data.for_channels([channels])
    batch = next(plain_batches(data, data.val, batch_size=4))
    checkpoint = Checkpoint(
        nn.Identity(), None, CLASSES, (channels, SIDE, SIDE), mean, std, data.name
    )
    for image, name in zip(batch.images, data.val_images.names, strict=False):
        with Image.open(data.val_images.root / name) as file:
            (expected,) = prepare(file, checkpoint)
        assert image.shape == (channels, SIDE, SIDE)
        assert torch.allclose(image, expected, atol=1e-5)


def test_grey_pixels_get_the_numbers_of_each_channel() -> None:
    """Fashion-MNIST's one channel, for a network that normalizes three differently."""
    data = open_dataset("fashion-mnist", max_images=50).normalized((0.1, 0.2, 0.3), (1, 2, 4))
    images = next(plain_batches(data, data.val, batch_size=2)).images
    pixels = (images * torch.tensor([1, 2, 4]).view(3, 1, 1)) + torch.tensor([0.1, 0.2, 0.3]).view(
        3, 1, 1
    )
    assert torch.allclose(pixels[:, 0], pixels[:, 2], atol=1e-6) and pixels.max() > 0.5


def test_color_images_become_grey_for_a_grey_network(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(20):
            pixels = random.integers(0, 255, (8, 8, 3)).astype("uint8")
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    folder = open_dataset(f"folder:{tmp_path}", image_size=8).for_channels([3, 1])
    images = next(folder.val.batches([torch.tensor([0])]))
    with Image.open(folder.val_images.root / folder.val_images.names[0]) as file:
        assert np.array_equal(images[0, 0].numpy(), np.asarray(file.convert("L")))
    batch = next(plain_batches(folder, folder.val, batch_size=1))
    assert batch.images.shape == (1, 3, 8, 8)


def test_grey_files_are_kept_as_one_channel(place: Path, tmp_path: Path) -> None:
    """With the same batches as from files on the disk; one colored image makes it three."""
    shutil.copytree(place / "images", tmp_path / "images")
    opened = open_dataset(f"folder:{tmp_path / 'images'}", image_size=SIDE)
    images = opened.train_images
    kept = open_pool(images, Framing(SIDE))
    streamed = open_pool(images, Framing(SIDE), memory_limit_bytes=0, workers=0)
    assert isinstance(kept, MemoryPool) and kept.pixels.shape[1] == 1
    both = [
        next(
            plain_batches(
                replace(opened, normalization=((0.1, 0.2, 0.3), (1, 2, 4))), pool, batch_size=50
            )
        )
        for pool in (kept, streamed)
    ]
    assert torch.equal(both[0].images, both[1].images) and both[0].images.shape[1] == 3
    pixels = np.zeros((SIDE, SIDE, 3), dtype="uint8")
    pixels[3, 4] = (9, 8, 7)
    assert isinstance(images, Files)
    Image.fromarray(pixels).save(images.root / images.names[-1])
    colored = open_pool(images, Framing(SIDE))
    assert isinstance(colored, MemoryPool) and colored.pixels.shape[1] == 3
    assert torch.equal(colored.pixels[0], kept.pixels[0].expand(3, -1, -1))
    assert colored.pixels[-1, :, 3, 4].tolist() == [9, 8, 7]


def test_input_channels_are_those_of_the_network(place: Path) -> None:
    for name, channels in (("grey", 1), ("color", 3), ("Flat", 1)):
        model = import_builder(f"greynets:{name}")(num_classes=4).train()
        assert input_channels(model, 16) == channels and model.training
    assert input_channels(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(9, 9)), 16) == 1


def test_several_channels_are_refused_before_anything_trains(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"greynets:five_channels.* 5 channels"):
        run(place, tmp_path / "run", "grey", "five_channels")
    assert not (tmp_path / "run").exists()
