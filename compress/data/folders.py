"""Image folders, with a subfolder for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS

from compress.data.source import Files, Source
from compress.data.splits import split_rows
from compress.runtime.errors import UserError, one_line

# Fraction of the images that is held out from a folder without a test split.
TEST_FRACTION = 0.2

# Side in pixels to which images are resized by default.
IMAGE_SIZE = 224

# Usual names of split folders, in lower case.
SPLIT_NAMES = {
    "train": ("train", "training", "trainset", "train_set", "seg_train"),
    "val": ("val", "valid", "validation", "valset", "val_set", "dev"),
    "test": ("test", "testing", "testset", "test_set", "seg_test"),
}

# Folders that operating systems and tools leave behind, besides hidden ones.
SYSTEM_FOLDERS = ("__MACOSX", "__pycache__", "System Volume Information", "$RECYCLE.BIN")


def open_folder(path: Path) -> Source:
    """List a folder of images: ``CLASS/…``, or ``train/CLASS/…`` beside ``val/`` or ``test/``.

    Split folders are known under their usual names (`SPLIT_NAMES`), in any case. If there is no
    ``test/``, ``val/`` is the test split. Without ``train/``, a fifth of each class is held out as
    the test split. Hidden and system folders are skipped. No image is decoded.

    Raises:
        UserError: the folder has no images, another layout, or splits with different classes.
    """
    name = f"folder:{path}"
    splits = _find_splits(name, path)
    if not splits:
        return _hold_out_test(name, path)
    if "train" not in splits:
        found = ", ".join(f"{folder.name}/" for folder in splits.values())
        raise UserError(f"{name}: has {found} but no train/; add it, or name a class differently")
    if len(splits) == 1:
        raise UserError(
            f"{name}: {path} has train/ but neither val/ nor test/ beside it; add one of them"
        )
    classes, train = list_images(name, splits["train"])
    others = {
        key: list_split(name, root, classes) for key, root in splits.items() if key != "train"
    }
    test = others.get("test") or others["val"]
    return Source(
        name,
        classes,
        IMAGE_SIZE,
        train,
        test=lambda: test,
        val=others.get("val") if "test" in others else None,
        notes=_describe_skipped(splits.values()),
    )


def _find_splits(name: str, path: Path) -> dict[str, Path]:
    """Return the split folders in `path`: train, val, test."""
    found: dict[str, Path] = {}
    for folder in sorted(path.iterdir()):
        if not folder.is_dir():
            continue
        for split, names in SPLIT_NAMES.items():
            if folder.name.lower() in names:
                if split in found:
                    raise UserError(
                        f"{name}: {found[split].name}/ and {folder.name}/ are both {split} splits;"
                        " remove or rename one"
                    )
                found[split] = _unnest(folder)
    return found


def _unnest(folder: Path) -> Path:
    """Return the split folder inside of one with the same name, as archives often have it."""
    inside = [each for each in folder.iterdir() if each.is_dir() and not _is_skipped(each)]
    nested = len(inside) == 1 and inside[0].name.lower() == folder.name.lower()
    return inside[0] if nested else folder


def _hold_out_test(name: str, path: Path) -> Source:
    classes, images = list_images(name, path)
    total = len(images.names)
    if total < 2:
        raise UserError(f"{name}: too few images to hold some out for a test split")
    held_out, rest = split_rows(images.targets, max(1, round(TEST_FRACTION * total)), seed=0)
    return Source(
        name,
        classes,
        IMAGE_SIZE,
        images.take(rest),
        test=lambda: images.take(held_out),
        notes=_describe_skipped([path]),
    )


def list_images(name: str, root: Path) -> tuple[tuple[str, ...], Files]:
    """List the images below ``root/CLASS/``; none is decoded.

    Returns:
        The classes, sorted, and the files.

    Raises:
        UserError: `root` has no classes, or a class has no images.
    """
    try:
        classes = tuple(sorted(each.name for each in root.iterdir() if _is_class(each)))
        if not classes:
            raise FileNotFoundError("there is no folder of a class")
        numbers = {each: number for number, each in enumerate(classes)}
        samples = datasets.folder.make_dataset(str(root), numbers, IMG_EXTENSIONS)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {name} under {root}: {one_line(error)}") from error
    # macOS puts hidden files named like images beside them.
    visible = [(path, number) for path, number in samples if not Path(path).name.startswith(".")]
    return classes, _to_files(visible, root)


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
    return _to_files(folder.samples, root)


def _to_files(samples: list[tuple[str, int]], root: Path) -> Files:
    names = tuple(Path(path).relative_to(root).as_posix() for path, _ in samples)
    return Files(root, names, torch.tensor([number for _, number in samples]))


def _is_skipped(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in SYSTEM_FOLDERS


def _is_class(path: Path) -> bool:
    return path.is_dir() and not _is_skipped(path)


def _describe_skipped(roots: Iterable[Path]) -> tuple[str, ...]:
    """Describe the folders and files that are passed over: one line for each kind."""
    folders: list[str] = []
    endings: Counter[str] = Counter()
    for root in roots:
        for entry in sorted(root.iterdir()):
            if entry.is_dir() and _is_skipped(entry):
                folders.append(entry.name)
            elif entry.is_dir():
                endings.update(
                    file.suffix.lower() or "no ending"
                    for file in entry.rglob("*")
                    if file.is_file() and file.suffix.lower() not in IMG_EXTENSIONS
                )
    notes = []
    if folders:
        notes.append(f"skipped folders: {', '.join(dict.fromkeys(folders))}")
    if endings:
        counts = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
        notes.append(f"skipped files that are not read as images: {counts}")
    return tuple(notes)
