"""Data sets: a source that is split into training, validation and test images.

Opening a data set reads no image files: pools are opened when they are first used.
"""

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
from compress.data.source import IGNORE, Images, Normalization, Source, fit_channels
from compress.data.sources import open_source
from compress.data.splits import split_groups, split_rows
from compress.data.verify import verify_source
from compress.recipe.color import read_color
from compress.runtime.errors import UserError

CPU = torch.device("cpu")
# Fraction of the training images that is held out for validation.
VAL_FRACTION = 0.1


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


def open_dataset(
    name: str,
    *,
    image_size: int | None = None,
    max_images: int | None = None,
    data_fraction: float = 1.0,
    seed: int = 0,
    val_fraction: float = VAL_FRACTION,
    crop_ratio: float | None = None,
    background: str | None = None,
    verify: bool = False,
    skip_broken: bool = False,
    log: Callable[[str], None] = lambda line: None,
) -> Dataset:
    """Open a data set by name.

    The validation split is taken from the training images first, unless the data set brings its
    own. A fraction of the rest is trained on. Classes stay in proportion in both, and both depend
    on `seed` alone. Image files are listed, and not read unless `verify` is set.

    Args:
        name: a data source's name, ``folder:PATH``, ``masks:PATH``, ``csv:FILE`` or
            ``hf:NAME-OR-PATH``.
        image_size: side in pixels to which images are resized; the source's own if left out.
        max_images: limit on the number of training images.
        data_fraction: fraction of the training images to use, above 0 and at most 1.
        val_fraction: fraction of the training images to hold out for validation, between 0 and 1.
        crop_ratio: side of the centre that is evaluated, relative to the shorter side; chosen by
            the files if left out.
        background: colour behind transparent parts; the source's own if left out.
        verify: check that the image files of all splits can be read; see `verify_source`.
        skip_broken: verify, and leave out the files that cannot be read.
        log: called with a line before many files are checked.

    Raises:
        UserError: there is no such data set; it cannot be downloaded or listed; a number leaves
            nothing to train on; or files are broken.

    Example:
        >>> data = open_dataset("folder:photos", image_size=64)
        >>> data.classes, data.train_count
        (('cat', 'dog'), 900)
    """
    _check_numbers(image_size, max_images, data_fraction, val_fraction)
    if crop_ratio is not None and not 0.1 <= crop_ratio <= 1:
        raise UserError(f"crop_ratio = {crop_ratio}: must be between 0.1 and 1")
    ground = None if background is None else read_color(background)
    source = open_source(name)
    if verify or skip_broken:
        source = verify_source(source, skip_broken=skip_broken, log=log)
    classes = len(source.classes)
    if classes < 2:
        raise UserError(f"{name} has {classes} class; a classifier needs at least 2")
    val, rest = hold_out_val(source, seed, val_fraction)
    count = round(data_fraction * len(rest))
    if max_images is not None:
        count = _limit_count(name, max_images, count, classes)
    if count < classes or len(val.targets) == 0:
        limited = classes <= len(rest) and len(val.targets)
        remedy = "raise data_fraction or max_images" if limited else "add images"
        raise UserError(
            f"{name}: {count} training and {len(val.targets)} validation images are too few for"
            f" {classes} classes; {remedy}"
        )
    chosen, _ = split_rows(source.train.targets[rest], count, seed)
    return Dataset(
        name=source.name,
        classes=source.classes,
        image_size=source.image_size if image_size is None else image_size,
        train_images=source.train.take(rest[chosen]),
        val_images=val,
        test_images=source.test,
        normalization=source.normalization,
        mirrors=source.mirrors,
        notes=source.notes,
        background=ground or source.background,
        own_crop_ratio=crop_ratio,
        test_count=source.test_count,
    )


def hold_out_val(
    source: Source, seed: int, val_fraction: float = VAL_FRACTION
) -> tuple[Images, Tensor]:
    """Return the validation images of a source, and the rows of the training images that are left.

    Validation images are the source's own, or held out of the training images by `seed`.
    """
    targets = source.train.targets
    if source.val is not None:
        return source.val, torch.arange(len(targets))
    count = round(val_fraction * len(targets))
    if source.groups is None:
        held_out, rest = split_rows(targets, count, seed)
    else:
        held_out, rest = split_groups(targets, source.groups, count, seed)
    return source.train.take(held_out), rest


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
