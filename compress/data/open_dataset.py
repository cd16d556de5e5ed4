"""Open a data set by name: a source is split into training, validation and test images.

This reads no image files, unless they are to be verified.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compress.data.class_order import number_as
from compress.data.dataset import Dataset
from compress.data.source import Images, Source
from compress.data.sources import open_source
from compress.data.splits import split_groups, split_rows
from compress.data.verify import verify_source
from compress.recipe.color import read_color
from compress.runtime.errors import UserError

# Fraction of the training images that is held out for validation.
VAL_FRACTION = 0.1


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
    classes: tuple[str, ...] = (),
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
        classes: those of a trained network, whose order is taken if the data has the same.
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
    if set(source.classes) == set(classes):
        source = number_as(source, classes)
    kinds = len(source.classes)
    if kinds < 2:
        raise UserError(f"{name} has {kinds} class; a classifier needs at least 2")
    val, rest = hold_out_val(source, seed, val_fraction)
    count = round(data_fraction * len(rest))
    if max_images is not None:
        count = _limit_count(name, max_images, count, kinds)
    if count < kinds or len(val.targets) == 0:
        limited = kinds <= len(rest) and len(val.targets)
        remedy = "raise data_fraction or max_images" if limited else "add images"
        raise UserError(
            f"{name}: {count} training and {len(val.targets)} validation images are too few for"
            f" {kinds} classes; {remedy}"
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
