"""Folders of images and masks: ``masks:PATH``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from compress.data.formats import SUFFIXES
from compress.data.labelled_files import make_source
from compress.data.masks import read_mask
from compress.data.source import IGNORE, Files, MaskFiles, Source
from compress.data.split_names import split_of
from compress.runtime.errors import UserError

IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"
# Networks with skip connections take sides that they can halve five times.
MULTIPLE = 32
# Marks behind the name of an image in that of its mask.
MARKS = ("_mask", "-mask", "_seg", "-seg", "_labels", "_label", "_L")


def open_masks(path: Path) -> Source:
    """List a folder of images and masks: ``images/`` and ``masks/``, matched by name.

    Masks have the size of their image, and hold class numbers, as values or as places in a palette;
    255 stands for pixels without a class. The splits are folders, ``train/images/…`` or
    ``images/train/…``, beside ``val`` or ``test`` or both; without them, a fifth is held out as the
    test split. Names of the classes are in ``classes.txt``, one a line, the first one's number is
    0; else numbers stand for them.

    Raises:
        UserError: the folder has another layout, or an image has no mask.
    """
    name = f"masks:{path}"
    folders = _find_splits(name, path)
    splits = {split: pair_masks(name, path, *pair) for split, pair in folders.items()}
    lost = [_name_lost(name, splits[split], masks) for split, (_, masks) in folders.items()]
    classes = _read_classes(name, path, splits)
    source = make_source(name, classes, splits)
    side = max(source.image_size // MULTIPLE, 1) * MULTIPLE
    notes = (*source.notes, *filter(None, lost))
    return replace(source, image_size=side, mirrors=True, notes=notes)


def _find_splits(name: str, path: Path) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and of masks of each split; of ``train`` alone if unsplit."""
    found: dict[str, tuple[Path, Path]] = {}

    def add(folder: Path, images: Path, masks: Path) -> None:
        split = split_of(folder.name)
        if split is not None and images.is_dir() and masks.is_dir():
            if split in found:
                raise UserError(f"{name}: two folders are {split} splits; remove or rename one")
            found[split] = (images, masks)

    for folder in sorted(each for each in path.iterdir() if each.is_dir()):
        add(folder, folder / IMAGES, folder / MASKS)
    images, masks = path / IMAGES, path / MASKS
    if images.is_dir() and masks.is_dir():
        for folder in sorted(each for each in images.iterdir() if each.is_dir()):
            add(folder, folder, masks / folder.name)
        if not found:
            return {"train": (images, masks)}
    if not found:
        raise UserError(
            f"{name}: expected {IMAGES}/ and {MASKS}/ in {path}, or in train/, val/ and test/"
        )
    if set(found) == {"train"}:
        raise UserError(
            f"{name}: {path} has train/ but neither val/ nor test/ beside it; add one of them"
        )
    return found


def pair_masks(name: str, root: Path, images: Path, masks: Path) -> Files:
    """Match the images in one folder with the masks in another."""
    theirs = _by_stem(name, masks)
    ours = _by_stem(name, images)
    if not ours:
        raise UserError(f"{name}: no images in {images}")
    pairs: list[tuple[Path, Path]] = []
    for stem, image in sorted(ours.items()):
        found = next((theirs[stem + m] for m in ("", *MARKS) if stem + m in theirs), None)
        if found is None:
            raise UserError(f"{name}: {image} has no mask {masks / stem}.png")
        pairs.append((image, found))
    names, others = (tuple(pair[i].relative_to(root).as_posix() for pair in pairs) for i in (0, 1))
    return Files(root, names, torch.zeros(len(pairs), dtype=torch.int64), MaskFiles(others))


def _name_lost(name: str, files: Files, masks: Path) -> str:
    """Name a mask that belongs to no image, as to one of a format that is not read; or nothing."""
    assert files.masks is not None
    paired = {files.root / each for each in files.masks.names}
    lost = sorted(set(_by_stem(name, masks).values()) - paired)
    if not lost:
        return ""
    count = f"{len(lost):,} of {len(lost) + len(paired):,} masks"
    return f"left out: {count} that have no image, as {lost[0]}"


def _by_stem(name: str, folder: Path) -> dict[str, Path]:
    """Return the image files below a folder by their names without endings, folders included."""
    files = [
        each
        for each in folder.rglob("*")
        if each.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in each.relative_to(folder).parts)
    ]
    stems = [each.relative_to(folder).with_suffix("").as_posix() for each in files]
    stem, count = Counter(stems).most_common(1)[0] if stems else ("", 0)
    if count > 1:
        raise UserError(f"{name}: {count} files in {folder} are called {stem!r}; rename them")
    return dict(zip(stems, files, strict=True))


def _read_classes(name: str, path: Path, splits: dict[str, Files]) -> tuple[str, ...]:
    file = path / CLASSES
    if not file.is_file():
        return _count_classes(name, splits)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: {file} cannot be read as text") from error
    classes = tuple(line.strip() for line in lines if line.strip())
    if not 2 <= len(classes) <= IGNORE or len(set(classes)) < len(classes):
        raise UserError(
            f"{name}: {file} must name 2 to {IGNORE} classes, each once, one a line; it has"
            f" {len(classes)} lines"
        )
    return classes


def _count_classes(name: str, splits: dict[str, Files]) -> tuple[str, ...]:
    """Number the classes up to the largest value in the masks of the training images."""
    files, largest = splits["train"] if "train" in splits else next(iter(splits.values())), 0
    assert files.masks is not None
    for mask in files.masks.names:
        try:
            values = read_mask(files.root / mask)
        except UserError as error:
            raise UserError(f"{name}: cannot read the mask {mask}: {error}") from error
        known = values[values != IGNORE]
        largest = max(largest, int(known.max()) if len(known) else 0)
    return tuple(str(number) for number in range(largest + 1))
