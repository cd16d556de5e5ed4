"""A tiny data set of images and masks, and a U-Net for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ground", "disc", "box")
SIDE = 32

NETWORKS = """
import torch
import torch.nn.functional as F
from torch import nn


def _block(inner, outer, stride):
    conv = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outer), nn.ReLU())


class UNet(nn.Module):
    def __init__(self, width, num_classes):
        super().__init__()
        self.first = _block(3, width, 1)
        self.second = _block(width, 2 * width, 2)
        self.third = _block(2 * width, 2 * width, 2)
        self.up = _block(4 * width, 2 * width, 1)
        self.last = _block(3 * width, width, 1)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, images):
        first = self.first(images)
        second = self.second(first)
        third = F.interpolate(self.third(second), scale_factor=2)
        up = F.interpolate(self.up(torch.cat([third, second], 1)), scale_factor=2)
        return {"out": self.head(self.last(torch.cat([up, first], 1)))}


def teacher(num_classes):
    return UNet(12, num_classes)


def student(num_classes):
    return UNet(8, num_classes)
"""

RECIPE = """
data = "masks:{data}"
budget = 1500
batch_size = 16

[teacher]
name = "tinyunets:teacher"

[student]
name = "tinyunets:student"

[[stages]]
kind = "teach"
epochs = 6
optimizer = "adamw"
lr = 1e-2
crop = [0.6, 1.0]
color_jitter = 0.2
compile = false

[[stages]]
kind = "distill"
epochs = 4
scale = 0.5
optimizer = "adamw"
lr = 1e-2
alpha = 0.5
views = 2
compile = false

[[stages]]
kind = "prune"
samples = 32

[[stages]]
kind = "finetune"
epochs = 4
method = "channelwise"
optimizer = "adamw"
lr = 1e-2
compile = false
"""


def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a disc and a box on noise: uint8 (SIDE, SIDE, 3), and its classes, (SIDE, SIDE)."""
    pixels = random.integers(60, 120, (SIDE, SIDE, 3))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    for number, color in ((1, (220, 60, 60)), (2, (60, 60, 220))):
        cy, cx = random.integers(6, SIDE - 6, 2)
        near = (
            (y - cy) ** 2 + (x - cx) ** 2 < 36
            if number == 1
            else (abs(y - cy) < 6) & (abs(x - cx) < 6)
        )
        mask[near] = number
        pixels[near] = color
    return pixels.clip(0, 255).astype(np.uint8), mask


def save_mask(mask: np.ndarray, path: Path, palette: bool = True) -> None:
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 255, 768).tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_pairs(images: Path, masks: Path, count: int, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    images.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels, mask = draw(random)
        Image.fromarray(pixels).save(images / f"{number:03}.png")
        save_mask(mask, masks / f"{number:03}.png")


def write_masks(root: Path, train: int = 80, test: int = 24) -> Path:
    """A data set as `masks:` reads it, with a test split of its own and names of classes."""
    for seed, (split, count) in enumerate((("train", train), ("test", test))):
        write_pairs(root / split / "images", root / split / "masks", count, seed)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root
