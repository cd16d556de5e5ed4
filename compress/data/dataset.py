"""Data sets: training, validation and test images, whose pools are opened on first use."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from compress.data.balance import is_uneven
from compress.data.checksum import checksum_images
from compress.data.masks import check_known, check_numbers
from compress.data.measure import choose_crop_ratio, measure_normalization
from compress.data.photo import Framing
from compress.data.pool import MemoryPool, Pool, open_pool
from compress.data.source import IGNORE, Images, Normalization, fit_channels

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Dataset:
    """A data set, split into training, validation and test images.

    Images are square; batches are (B, channels, image_size, image_size). Pools are opened, and
    files decoded, on first use.

    Args:
        classes: names of the classes, in the order of the logits.
        image_size: side of the images, in pixels.
        test_images: reads the test images when it is called.
        normalization: mean and standard deviation of each channel; measured on the training images
            if None.
        mirrors: True if an image's mirror image shows the same class; None if it is not known.
        notes: lines for the user, as about files that are skipped.
        device: device of the pools.
        channels: channels of the images in batches: 3, or 1 for grey images alone.
        grey: True if images are read as grey ones.
        background: colour behind transparent parts, ``#rrggbb``.
        own_crop_ratio: the recipe's or a trained network's `crop_ratio`; that of the files if None.
        least_area: fraction of an image's area that the smallest crop in training keeps; large
            files are decoded at a fraction of their size that leaves enough pixels to it.
        test_count: number of test images, if it is known before they are read.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    train_images: Images = field(repr=False)
    val_images: Images = field(repr=False)
    test_images: Callable[[], Images] = field(repr=False)
    normalization: Normalization | None = None
    mirrors: bool | None = None
    notes: tuple[str, ...] = ()
    device: torch.device = CPU
    channels: int = 3
    grey: bool = False
    background: str = "#ffffff"
    own_crop_ratio: float | None = None
    least_area: float = 1.0
    test_count: int | None = None

    @property
    def has_masks(self) -> bool:
        """True if the labels are masks, with a class for each pixel, and not one for each image."""
        return self.train_images.masks is not None

    @property
    def labels(self) -> Literal["images", "pixels"]:
        """What has a class."""
        return "pixels" if self.has_masks else "images"

    @property
    def uneven(self) -> bool:
        """True if images have one class each, and classes have very different numbers of images."""
        return not self.has_masks and is_uneven(self.train_images.targets, len(self.classes))

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of training images of each class, or of their pixels where there are masks."""
        labels = self.train_images.targets
        if self.has_masks:
            assert isinstance(self.train, MemoryPool) and self.train.masks is not None
            labels = self.train.masks[self.train.masks != IGNORE]
        counts = labels.bincount(minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train_images.targets)

    @property
    def val_count(self) -> int:
        """Number of validation images."""
        return len(self.val_images.targets)

    @property
    def train(self) -> Pool:
        """Training images.

        Raises:
            UserError: an image file cannot be read.
        """
        return self._training[0]

    @cached_property
    def _training(self) -> tuple[Pool, Normalization]:
        """Training images, and their normalization, measured on the CPU."""
        pool = self._open(self.train_images, crops=True)
        if isinstance(pool, MemoryPool) and pool.masks is not None:
            check_known(pool.masks, self.name)
        normalization = self.normalization or measure_normalization(pool)
        return pool.to(self.device), normalization

    def _open(self, images: Images, crops: bool = False) -> Pool:
        framing = Framing(self.image_size, self.crop_ratio, self.least_area if crops else 1.0)
        pool = open_pool(images, framing, background=self.background, grey=self.grey, crops=crops)
        if isinstance(pool, MemoryPool) and pool.masks is not None:
            check_numbers(pool.masks, len(self.classes), self.name)
        return pool

    @cached_property
    def crop_ratio(self) -> float:
        """Side of the square that is evaluated, relative to the shorter side: 0.1 to 1.

        Where it is not given, 0.875 if most image files are larger than that needs, else 1.
        """
        if self.own_crop_ratio is not None:
            return self.own_crop_ratio
        if self.has_masks:
            # What is cut off has no label.
            return 1.0
        return choose_crop_ratio(self.train_images, self.image_size)

    @cached_property
    def val(self) -> Pool:
        """Validation images.

        Raises:
            UserError: an image file cannot be read.
        """
        return self._open(self.val_images).to(self.device)

    @property
    def val_labels(self) -> Tensor:
        """Labels of the validation images: class numbers, int64 (N,), or masks, uint8 (N, S, S)."""
        if not self.has_masks:
            return self.val_images.targets
        assert isinstance(self.val, MemoryPool) and self.val.masks is not None
        return self.val.masks

    def load(self) -> None:
        """Open the training and validation pools now.

        Files that cannot be read are found before training starts.

        Raises:
            UserError: an image file cannot be read. Files of a pool on the disk are not decoded.
        """
        _ = self.train, self.val

    def test(self) -> Pool:
        """Open the test images, of which nothing is read before.

        Raises:
            UserError: an image file cannot be read.
        """
        return self._open(self.test_images()).to(self.device)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, of pixels on a scale of 0 to 1: three values."""
        return (self.normalization or self._training[1])[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel, of pixels on a scale of 0 to 1: three values."""
        return (self.normalization or self._training[1])[1]

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of the training images, as 64 hex digits; see `checksum_images`."""
        return checksum_images(self.train_images)

    def to(self, device: torch.device | str) -> Dataset:
        """Return the data set with its pools on `device`; pools that are open are opened again."""
        return replace(self, device=torch.device(device))

    def normalized(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Dataset:
        """Return the data set with another normalization, such as a trained network expects.

        The values are three, or one for all channels.
        """
        return replace(self, normalization=(fit_channels(mean, 3), fit_channels(std, 3)))

    def for_crops(self, least_area: float) -> Dataset:
        """Return the data set for random crops of at least this fraction of an image's area."""
        return replace(self, least_area=least_area)

    def framed(self, crop_ratio: float, background: str) -> Dataset:
        """Return the data set with the `crop_ratio` and `background` of a trained network."""
        return replace(self, own_crop_ratio=crop_ratio, background=background)

    def for_channels(self, taken: Collection[int]) -> Dataset:
        """Return the data set for networks that take so many channels: 3, 1, or both.

        If one of them takes grey images, all get grey images, and batches have three equal channels
        as long as another one takes three.
        """
        return replace(self, channels=max(taken), grey=min(taken) == 1)
