"""A dataset by name, split and ready: the one place where training, validation and test part ways."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.data.pool import Pool, open_pool
from compress.data.sources import open_source
from compress.data.splits import split
from compress.runtime.errors import UserError

MEASURED_IMAGES = 4096  # enough for the mean and spread of a channel to three digits


@dataclass(frozen=True)
class Dataset:
    """A dataset, split. Its pools hold square images of `size` pixels; networks see (B, 3, size, size).

    `mean` and `std` are of the training pixels on a scale of 0 to 1, three values each (grey repeated).
    `test` reads the test split when it is called, not before. `checksum` is that of the training pool. `mirrors`:
    whether an image's mirror image shows the same class.
    """

    name: str
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Pool
    val: Pool
    test: Callable[[], Pool]
    checksum: str
    mirrors: bool = True


def open_dataset(
    name: str,
    *,
    size: int | None = None,
    limit: int | None = None,
    share: float = 1.0,
    seed: int = 0,
    val_share: float = 0.1,
) -> Dataset:
    """Open the dataset `name` (a source's name, or ``folder:PATH``) at `size` pixels, by default its own.

    The validation split is cut from the training images first (`val_share` of them, unless the dataset
    brings its own); `share` of the rest is then trained on, at most `limit` images. All three keep the
    classes in proportion and depend on `seed` alone.

    Raises:
        UserError: no such dataset; it cannot be had or read; or a number that leaves nothing to train on.
    """
    _check(size, limit, share, val_share)
    source = open_source(name)
    classes = len(source.classes)
    if classes < 2:
        raise UserError(f"{name} has {classes} class; a classifier needs at least 2")
    side = source.size if size is None else size

    val, rest = source.val, torch.arange(len(source.train.targets))
    if val is None:
        held, rest = split(source.train.targets, round(val_share * len(rest)), seed)
        val = source.train.take(held)
    count = round(share * len(rest))
    if limit is not None:
        count = _limited(name, limit, count, classes)
    if count < classes or len(val.targets) == 0:
        raise UserError(
            f"{name}: {count} training and {len(val.targets)} validation images are too few for "
            f"{classes} classes; raise share or limit"
        )
    chosen, _ = split(source.train.targets[rest], count, seed)
    train, test = (
        open_pool(source.train.take(rest[chosen]), side),
        source.test,
    )  # no more: `source` holds all images
    mean, std = (source.mean, source.std) if source.mean and source.std else _measured(train)
    return Dataset(
        name=source.name,
        classes=source.classes,
        size=side,
        mean=mean,
        std=std,
        train=train,
        val=open_pool(val, side),
        test=lambda: open_pool(test(), side),
        checksum=train.checksum(),
        mirrors=source.mirrors,
    )


def _check(size: int | None, limit: int | None, share: float, val_share: float) -> None:
    if size is not None and size < 1:
        raise UserError(f"size = {size}: images need at least one pixel")
    if limit is not None and limit < 1:
        raise UserError(f"limit = {limit}: there must be at least one image to train on")
    if not 0 < share <= 1:
        raise UserError(
            f"share = {share}: the share of the training images used is above 0 and at most 1"
        )
    if not 0 < val_share < 1:
        raise UserError(
            f"val_share = {val_share}: the validation split's share lies between 0 and 1"
        )


def _limited(name: str, limit: int, available: int, classes: int) -> int:
    if limit < classes:
        raise UserError(
            f"limit = {limit}: {name} has {classes} classes, and each needs an image at least"
        )
    return min(limit, available)


def _measured(pool: Pool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, over images spread evenly through the pool."""
    rows = torch.linspace(0, len(pool) - 1, min(len(pool), MEASURED_IMAGES)).long()
    total = squares = torch.zeros(3, dtype=torch.float64)
    pixels = 0
    for images in pool.batches(torch.split(rows, 64)):
        values = images.double().div(255).cpu()
        total = total + values.sum(dim=(0, 2, 3))
        squares = squares + values.square().sum(dim=(0, 2, 3))
        pixels += values[:, 0].numel()
    mean = total / pixels
    # a flat channel has no spread to divide by
    variance = (squares / pixels - mean.square()).clamp(min=1 / 255**2)
    return tuple(mean.tolist()), tuple(math.sqrt(value) for value in variance.tolist())
