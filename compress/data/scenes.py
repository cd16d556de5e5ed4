"""Fashion scenes: images of Fashion-MNIST on textured ground, with the class of each pixel.

The scenes are composed from the images that are there, the same on every machine: training scenes
of training images, test scenes of test images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import datasets

from compress.data.cache import DATA_FOLDERS, ensure_folder
from compress.data.source import Pixels, Source
from compress.data.sources import fashion_mnist
from compress.runtime.errors import UserError, one_line

NAME = "fashion-scenes"
SIDE = 64
SCENES = {"train": 4_000, "test": 500}
# Things in a scene, their sides in pixels, and the brightness from which a pixel belongs to one.
THINGS, SIDES, OPAQUE = (2, 5), (18, 40), 24


def fashion_scenes() -> Source:
    """Return 4,000 + 500 scenes of 64×64 pixels: ten kinds of clothes, and the ground."""
    root = ensure_folder(NAME, DATA_FOLDERS[NAME], _fill)

    def read(split: str) -> Pixels:
        file = root / DATA_FOLDERS[NAME] / f"{split}.npz"
        try:
            with np.load(file, allow_pickle=False) as kept:
                pixels, masks = (torch.from_numpy(kept[key]) for key in ("pixels", "masks"))
        # NumPy reports damage in many exception types.
        except Exception as error:
            raise UserError(f"{file}: damaged ({one_line(error)}); remove its folder") from error
        return Pixels(pixels, torch.zeros(len(pixels), dtype=torch.int64), masks)

    return Source(
        NAME,
        classes=("ground", *datasets.FashionMNIST.classes),
        image_size=SIDE,
        train=read("train"),
        test=lambda: read("test"),
        mirrors=True,
    )


def _fill(staging: Path) -> None:
    clothes = fashion_mnist()
    folder = staging / DATA_FOLDERS[NAME]
    folder.mkdir()
    for split, images in (("train", clothes.train), ("test", clothes.test())):
        assert isinstance(images, Pixels)
        seed = list(SCENES).index(split)
        pixels, masks = compose_scenes(images, SCENES[split], seed)
        np.savez(folder / f"{split}.npz", pixels=pixels, masks=masks)


def compose_scenes(images: Pixels, count: int, seed: int) -> tuple[Any, Any]:
    """Compose scenes from grey images on black ground.

    Returns:
        The pixels, uint8 (count, 3, 64, 64), and the masks, uint8 (count, 64, 64): 0 is the ground,
        other numbers are the class of the thing in front, plus 1.
    """
    random = np.random.default_rng(seed)
    pixels = np.empty((count, 3, SIDE, SIDE), np.uint8)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for scene in range(count):
        picture = _draw_ground(random)
        for _ in range(random.integers(THINGS[0], THINGS[1], endpoint=True)):
            row = int(random.integers(len(images.targets)))
            thing = images.pixels[row, 0].numpy()
            _place(picture, masks[scene], thing, int(images.targets[row]) + 1, random)
        pixels[scene] = picture.transpose(2, 0, 1)
    return pixels, masks


def _draw_ground(random: np.random.Generator) -> Any:
    """Draw coloured noise of three sizes: uint8 (64, 64, 3)."""
    ground = np.zeros((SIDE, SIDE, 3), np.int32)
    for cells, strength in ((4, 120), (16, 70), (64, 50)):
        noise = random.integers(0, strength, (cells, cells, 3)).astype(np.uint8)
        smooth = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        ground += np.asarray(smooth)
    return ground.clip(0, 255).astype(np.uint8)


def _place(picture: Any, mask: Any, thing: Any, number: int, random: np.random.Generator) -> None:
    """Put a thing of a random size and colour at a random place, in front of all that is there."""
    side = int(random.integers(SIDES[0], SIDES[1], endpoint=True))
    if random.integers(2):
        thing = thing[:, ::-1]
    grey = np.asarray(Image.fromarray(thing).resize((side, side), Image.Resampling.BILINEAR))
    # A quarter of a thing at most is outside of the picture.
    left, top = random.integers(-(side // 4), SIDE - side + side // 4, 2, endpoint=True)
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + side, SIDE), min(top + side, SIDE)
    grey = grey[y1 - top : y2 - top, x1 - left : x2 - left]
    tint = random.integers(110, 255, 3, endpoint=True)
    opaque = grey >= OPAQUE
    colored = (grey[..., None].astype(np.int32) * tint // 255).astype(np.uint8)
    picture[y1:y2, x1:x2][opaque] = colored[opaque]
    mask[y1:y2, x1:x2][opaque] = number
