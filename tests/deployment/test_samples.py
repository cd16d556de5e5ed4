"""Images of a network's own data: the splits are those of its training."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import nn

from compress.data.open_dataset import open_dataset
from compress.data.source import Files
from compress.deployment.samples import open_own_data
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec
from compress.runtime.text import normalize_name


def test_accents_may_be_spelled_and_sorted_as_by_earlier_releases(tmp_path: Path) -> None:
    old, new = ("cafe\u0301", "cafz"), ("cafz", "caf\u00e9")
    for number in range(40):
        folder = tmp_path / old[number % 2]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    name = f"folder:{tmp_path}"
    assert open_dataset(name).classes == new
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    spec, half = ModelSpec("tinynets:student"), (0.5, 0.5, 0.5)
    known = Checkpoint(model, spec, old, (3, 8, 8), half, half, data=name)
    opened = open_own_data(known)
    assert opened.classes == known.classes == new[::-1]
    for images in (opened.train_images, opened.val_images, opened.test_images()):
        assert isinstance(images, Files)
        found = [known.classes[number] for number in images.targets.tolist()]
        assert found == [normalize_name(Path(each).parts[0]) for each in images.names]


def test_broken_images_that_training_left_out_change_no_split(tmp_path: Path) -> None:
    for number in range(40):
        folder = tmp_path / ("cat", "dog")[number % 2]
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    (tmp_path / "cat" / "broken.png").write_bytes(b"")
    name, keys = f"folder:{tmp_path}", {"seed": 3, "skip_broken": True}
    trained = open_dataset(name, seed=3, skip_broken=True)
    known = Checkpoint(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 2)),
        ModelSpec("tinynets:student"),
        trained.classes,
        (3, 8, 8),
        (0.5, 0.5, 0.5),
        (0.25, 0.25, 0.25),
        data=name,
        origin={"recipe": keys},
    )
    opened = open_own_data(known)
    for ours, theirs in (
        (opened.val_images, trained.val_images),
        (opened.train_images, trained.train_images),
    ):
        assert isinstance(ours, Files) and isinstance(theirs, Files)
        assert ours.names == theirs.names and torch.equal(ours.targets, theirs.targets)
