"""Properties of the training images that are measured: normalization and crop ratio."""

from __future__ import annotations

import math
from statistics import median

import torch

from compress.data.decode import read_size
from compress.data.photo import resized_side
from compress.data.pool import Pool
from compress.data.source import Images, Normalization, Pixels

# Images on which mean and standard deviation are measured: enough for three digits.
MEASURED_IMAGES = 4096

# `crop_ratio` of photos, and the number of files that tell whether images are photos.
PHOTO_CROP_RATIO = 0.875
SAMPLED_FILES = 64


def choose_crop_ratio(images: Images, image_size: int) -> float:
    """Return 0.875 if most images are photos, larger than is needed for that, else 1."""
    if isinstance(images, Pixels):
        return 1.0
    rows = torch.linspace(0, len(images.names) - 1, min(len(images.names), SAMPLED_FILES)).long()
    sizes = [read_size(images.root / images.names[row]) for row in rows.tolist()]
    shorter = [min(size) for size in sizes if size]
    enough = resized_side(image_size, PHOTO_CROP_RATIO)
    return PHOTO_CROP_RATIO if shorter and median(shorter) >= enough else 1.0


def measure_normalization(pool: Pool) -> Normalization:
    """Measure each channel's mean and standard deviation, on images spread evenly over the pool."""
    rows = torch.linspace(0, len(pool) - 1, min(len(pool), MEASURED_IMAGES)).long()
    total = squares = torch.zeros(3, dtype=torch.float64)
    pixels = 0
    for images in pool.batches(torch.split(rows, 64)):
        values = images.double().div(255).cpu()
        total = total + values.sum(dim=(0, 2, 3))
        squares = squares + values.square().sum(dim=(0, 2, 3))
        pixels += values[:, 0].numel()
    mean = total / pixels
    # A flat channel has no deviation to divide by.
    variance = (squares / pixels - mean.square()).clamp(min=1 / 255**2)
    return tuple(mean.tolist()), tuple(math.sqrt(value) for value in variance.tolist())
