"""The interface of data sources: images in memory or in files, with their classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.runtime.errors import UserError, one_line
from compress.runtime.text import normalize_name

# Mean and standard deviation of each channel, of pixels on a scale of 0 to 1: three values each,
# those of grey images repeated.
Normalization = tuple[tuple[float, ...], tuple[float, ...]]

WHITE = "#ffffff"

# The value of pixels in masks that belong to no class.
IGNORE = 255

IMAGENET_NORMALIZATION: Normalization = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Pixels:
    """Decoded images of one size, in memory.

    Args:
        pixels: uint8 (N, C, H, W), C = 1 or 3.
        targets: class numbers, int64 (N,); all 0 where there are masks.
        masks: class number of each pixel, or `IGNORE`, uint8 (N, H, W), of data with masks.
    """

    pixels: Tensor
    targets: Tensor
    masks: Tensor | None = None

    def take(self, rows: Tensor) -> Pixels:
        """Return the images at `rows`, int64 (n,)."""
        masks = None if self.masks is None else self.masks[rows]
        return Pixels(self.pixels[rows], self.targets[rows], masks)


@dataclass(frozen=True)
class MaskFiles:
    """The masks of image files, one for each, as PNG or another format without loss.

    Args:
        names: relative to the root of the images.
        numbers: the class number, or `IGNORE`, that each value in the files stands for; larger
            values, and all if this is empty, stand for themselves.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Files:
    """Image files.

    Args:
        root: the folder that the names are relative to.
        names: one for each image.
        targets: class numbers, int64 (N,); all 0 where there are masks.
        masks: the files of their masks, of data with masks.
    """

    root: Path
    names: tuple[str, ...]
    targets: Tensor
    masks: MaskFiles | None = None

    def take(self, rows: Tensor) -> Files:
        """Return the images at `rows`, int64 (n,)."""
        chosen, masks = rows.tolist(), self.masks
        if masks is not None:
            masks = replace(masks, names=tuple(masks.names[row] for row in chosen))
        names = tuple(self.names[row] for row in chosen)
        return Files(self.root, names, self.targets[rows], masks)


Images = Pixels | Files


@dataclass(frozen=True)
class Source:
    """A data set as it is published.

    Args:
        classes: names of the classes, in the order of the class numbers.
        image_size: default side of the images, in pixels.
        train: training images.
        test: reads the test images when it is called.
        val: validation images, if the data set has a validation split of its own.
        normalization: that of the training images; None if it is not known.
        mirrors: True if an image's mirror image shows the same class; None if it is not known.
        notes: lines for the user, as about files that are skipped.
        groups: group of each training image, int64 (N,); those of one group are near-duplicates,
            and stay on one side of a split.
        held_out: True if the test images were held out here, and the data has no split of its own.
        background: colour of the images' ground, ``#rrggbb``; transparent parts get it.
        test_count: number of test images, if it is known before they are read.
    """

    name: str
    classes: tuple[str, ...]
    image_size: int
    train: Images
    test: Callable[[], Images]
    val: Images | None = None
    normalization: Normalization | None = None
    mirrors: bool | None = None
    notes: tuple[str, ...] = ()
    groups: Tensor | None = None
    held_out: bool = False
    background: str = WHITE
    test_count: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(map(normalize_name, self.classes)))


def fit_channels(values: Iterable[float], channels: int) -> tuple[float, ...]:
    """Return one value for each channel, of values that one or three channels have.

    A single value counts for all channels; grey images take the first one.

    Example:
        >>> fit_channels((0.5,), 3)
        (0.5, 0.5, 0.5)
    """
    found = tuple(float(value) for value in values)
    return (found * channels if len(found) == 1 else found)[:channels]


def open_torchvision(name: str, root: Path, dataset: Callable[..., Any], **options: Any) -> Any:
    """Open a torchvision dataset under `root`.

    Args:
        name: name of the data source, for messages.
        dataset: the dataset's class; `options` go to it.

    Raises:
        UserError: torchvision cannot read the files.
    """
    try:
        return dataset(root, **options)
    # torchvision reports damage in many exception types.
    except Exception as error:
        why = one_line(error).removesuffix(" You can use download=True to download it")
        raise UserError(
            f"cannot read {name} under {root}: {why}; if that copy is damaged, remove it"
        ) from error
