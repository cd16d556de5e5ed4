"""Data sets: a source that is split into training, validation and test images.

Opening a data set reads no image files: pools are opened when they are first used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from compress.data.pool import Pool, open_pool
from compress.data.sources import Files, Pixels, open_source
from compress.data.splits import split
from compress.runtime.errors import UserError

# Images on which mean and standard deviation are measured: enough for three digits.
MEASURED_IMAGES = 4096

# Mean and standard deviation of each channel, of pixels on a scale of 0 to 1.
Normalization = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Dataset:
    """A data set, split into training, validation and test images.

    Images are square, of `image_size` pixels; networks see (B, 3, image_size, image_size).

    Args:
        classes: their names, in the order of the logits.
        mirrors: True if an image's mirror image shows the same class.
        train_count: the number of training images.
        normalization: mean and standard deviation of each channel; measured if None.
        device: the device of the pools.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    train_images: Pixels | Files = field(repr=False)
    val_images: Pixels | Files = field(repr=False)
    test_images: Callable[[], Pixels | Files] = field(repr=False)
    normalization: Normalization | None = None
    mirrors: bool = True
    device: torch.device = torch.device("cpu")

    @property
    def train_count(self) -> int:
        """The number of training images."""
        return len(self.train_images.targets)

    @property
    def train(self) -> Pool:
        """The training images.

        Raises:
            UserError: an image file cannot be read.
        """
        return self._training[0]

    @cached_property
    def _training(self) -> tuple[Pool, Normalization, str]:
        """The training images, their normalization and checksum, measured before they leave the CPU."""
        pool = open_pool(self.train_images, self.image_size)
        normalization = self.normalization or _measure_normalization(pool)
        return pool.to(self.device), normalization, pool.checksum()

    @cached_property
    def val(self) -> Pool:
        """The validation images.

        Raises:
            UserError: an image file cannot be read.
        """
        return open_pool(self.val_images, self.image_size).to(self.device)

    def test(self) -> Pool:
        """Open the test images; nothing of them is read before.

        Raises:
            UserError: an image file cannot be read.
        """
        return open_pool(self.test_images(), self.image_size).to(self.device)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, of pixels on a scale of 0 to 1: three values, grey repeated."""
        return (self.normalization or self._training[1])[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, of pixels on a scale of 0 to 1."""
        return (self.normalization or self._training[1])[1]

    @property
    def checksum(self) -> str:
        """SHA-256 of the training images, as 64 hex digits; see `Pool.checksum`."""
        return self._training[2]

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with its pools on `device`."""
        return replace(self, device=torch.device(device))

    def normalized(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Dataset:
        """Return the data set with another normalization, as a trained network expects it."""
        return replace(self, normalization=(mean, std))


def open_dataset(
    name: str,
    *,
    image_size: int | None = None,
    max_images: int | None = None,
    data_fraction: float = 1.0,
    seed: int = 0,
    val_fraction: float = 0.1,
) -> Dataset:
    """Open a data set by name.

    The validation split is taken from the training images first, unless the data set brings its
    own. A fraction of the rest is trained on. Both keep the classes in proportion and depend on
    `seed` alone.

    Args:
        name: of a source, or ``folder:PATH``.
        image_size: side in pixels to which images are resized; the source's own if left out.
        max_images: the number of training images, at most.
        data_fraction: fraction of the training images to use.
        val_fraction: fraction of the training images that are held out for validation.

    Raises:
        UserError: there is no such data set, it cannot be had or listed, or a number leaves nothing
            to train on.

    Example:
        >>> data = open_dataset("folder:photos", image_size=64)
        >>> data.classes, data.train_count
        (('cat', 'dog'), 900)
    """
    _check_numbers(image_size, max_images, data_fraction, val_fraction)
    source = open_source(name)
    classes = len(source.classes)
    if classes < 2:
        raise UserError(f"{name} has {classes} class; a classifier needs at least 2")
    val, rest = source.val, torch.arange(len(source.train.targets))
    if val is None:
        held_out, rest = split(source.train.targets, round(val_fraction * len(rest)), seed)
        val = source.train.take(held_out)
    count = round(data_fraction * len(rest))
    if max_images is not None:
        count = _limit_count(name, max_images, count, classes)
    if count < classes or len(val.targets) == 0:
        raise UserError(
            f"{name}: {count} training and {len(val.targets)} validation images are too few for"
            f" {classes} classes; raise data_fraction or max_images"
        )
    chosen, _ = split(source.train.targets[rest], count, seed)
    known = source.mean and source.std
    return Dataset(
        name=source.name,
        classes=source.classes,
        image_size=source.size if image_size is None else image_size,
        train_images=source.train.take(rest[chosen]),
        val_images=val,
        test_images=source.test,
        normalization=(source.mean, source.std) if known else None,  # type: ignore[arg-type]
        mirrors=source.mirrors,
    )


def _check_numbers(
    image_size: int | None, max_images: int | None, data_fraction: float, val_fraction: float
) -> None:
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size = {image_size}: images need at least one pixel")
    if max_images is not None and max_images < 1:
        raise UserError(f"max_images = {max_images}: at least one image is needed to train on")
    if not 0 < data_fraction <= 1:
        raise UserError(f"data_fraction = {data_fraction}: must be above 0 and at most 1")
    if not 0 < val_fraction < 1:
        raise UserError(f"val_fraction = {val_fraction}: must be between 0 and 1")


def _limit_count(name: str, max_images: int, available: int, classes: int) -> int:
    if max_images < classes:
        raise UserError(
            f"max_images = {max_images}: {name} has {classes} classes, and each needs an image"
        )
    return min(max_images, available)


def _measure_normalization(pool: Pool) -> Normalization:
    """Measure mean and standard deviation of each channel, on images spread evenly over the pool."""
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
