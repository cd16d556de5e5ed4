"""Image folders, with a subfolder for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchvision import datasets

from compress.data.source import Files, Source, open_torchvision
from compress.data.splits import split_rows
from compress.runtime.errors import UserError

# Fraction of the images held out for the test, in a folder without a test split.
TEST_FRACTION = 0.2

IMAGE_SIZE = 224


def open_folder(path: Path) -> Source:
    """List a folder of images: ``CLASS/…``, or ``train/CLASS/…`` beside ``val/`` or ``test/``.

    If there is only ``val/``, its images are the test split. Without ``train/``, a fifth of each
    class is held out for the test.

    Raises:
        UserError: the folder has no images, or not in such a layout.
    """
    name = f"folder:{path}"
    if not (path / "train").is_dir():
        return _hold_out_test(name, path)
    classes, train = list_images(name, path / "train")
    has_val, has_test = ((path / split).is_dir() for split in ("val", "test"))
    if not (has_val or has_test):
        raise UserError(
            f"{name}: {path} has train/ but neither val/ nor test/ beside it; add one of them"
        )
    test = path / ("test" if has_test else "val")
    return Source(
        name,
        classes,
        IMAGE_SIZE,
        train,
        test=lambda: list_split(name, test, classes),
        val=list_split(name, path / "val", classes) if has_val and has_test else None,
    )


def _hold_out_test(name: str, path: Path) -> Source:
    classes, images = list_images(name, path)
    total = len(images.names)
    if total < 2:
        raise UserError(f"{name}: too few images to hold some out for a test split")
    held_out, rest = split_rows(images.targets, max(1, round(TEST_FRACTION * total)), seed=0)
    return Source(name, classes, IMAGE_SIZE, images.take(rest), test=lambda: images.take(held_out))


def list_images(name: str, root: Path) -> tuple[tuple[str, ...], Files]:
    """List the images below ``root/CLASS/``; none is decoded.

    Returns:
        The classes, sorted, and the files.

    Raises:
        UserError: `root` has no classes, or a class has no images.
    """
    found = open_torchvision(name, root, datasets.ImageFolder)
    return tuple(found.classes), to_files(found, root)


def list_split(name: str, root: Path, classes: tuple[str, ...]) -> Files:
    """List the images of another split, whose classes must be `classes`.

    Raises:
        UserError: they are not, or as for `list_images`.
    """
    found, files = list_images(name, root)
    check_classes(name, root, found, classes)
    return files


def check_classes(name: str, root: Path, found: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Check that the classes found in a split are those of the training split.

    Raises:
        UserError: a class is in only one of the two.
    """
    if found != classes:
        odd = sorted(set(found) ^ set(classes))[0]
        raise UserError(
            f"{name}: {root} and the training split have different classes ({odd!r} is in only one)"
        )


def to_files(folder: Any, root: Path) -> Files:
    """Return the images of torchvision's ImageFolder as files under `root`."""
    names = tuple(Path(path).relative_to(root).as_posix() for path, _ in folder.samples)
    return Files(root, names, torch.tensor(folder.targets))
