"""Image folders, with a subfolder for each class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from compress.data.folder_entries import (
    count_endings,
    describe_endings,
    describe_skipped,
    is_class,
    is_hidden,
    is_image,
)
from compress.data.labelled_files import make_source
from compress.data.source import Files, Source
from compress.data.split_names import looks_like_split, split_of
from compress.data.walk import walk_files
from compress.runtime.errors import UserError, one_line
from compress.runtime.text import normalize_name


def open_folder(path: Path) -> Source:
    """List a folder of images: ``CLASS/…``, or ``train/CLASS/…`` beside ``val/`` or ``test/``.

    Split folders are known under their usual names (`split_names.SPLIT_NAMES`), in any case. If
    there is no ``test/``, ``val/`` is the test split. Without ``train/``, a fifth of each class is
    held out as the test split. Hidden and system folders are skipped. No image is decoded.

    Raises:
        UserError: the folder has no images, another layout, or splits with different classes.
    """
    name = f"folder:{path}"
    splits = _find_splits(name, path)
    if not splits:
        _check_unsplit(name, path)
        _check_crossed(name, path)
        classes, images = list_images(name, path)
        return make_source(name, classes, {"train": images}, describe_skipped([path]))
    if len(splits) == 1:
        raise UserError(
            f"{name}: {path} has train/ but neither val/ nor test/ beside it; add one of them"
        )
    _refuse_flat_split(name, splits)
    classes, train = list_images(name, splits["train"])
    if all(map(looks_like_split, classes)):
        raise UserError(_describe_split_classes(name, classes))
    _check_crossed(name, splits["train"])
    others = {
        key: list_split(name, root, classes) for key, root in splits.items() if key != "train"
    }
    beside = tuple(each.name for each in sorted(path.iterdir()) if is_class(each))
    unused = [each for each in beside if split_of(each) is None]
    notes = describe_skipped(splits.values(), unused)
    return make_source(name, classes, {"train": train} | others, notes)


def _find_splits(name: str, path: Path) -> dict[str, Path]:
    """Return the split folders in `path`: train, val, test."""
    found: dict[str, Path] = {}
    folders = [each for each in sorted(path.iterdir()) if is_class(each)]
    for folder in folders:
        split = split_of(folder.name)
        if split is None:
            continue
        if split in found:
            raise UserError(
                f"{name}: {found[split].name}/ and {folder.name}/ are both {split} splits;"
                " remove or rename one"
            )
        found[split] = folder
    if found and (len(found) == 1 or "train" not in found):
        _refuse_half_split(name, list(found.values()), folders)
    return {split: _unnest(folder) for split, folder in found.items()}


def _refuse_half_split(name: str, splits: Sequence[Path], folders: Sequence[Path]) -> None:
    """Refuse a split whose other half is missing, and classes that bear the name of a split."""
    split = splits[0].name
    odd = [each.name for each in folders if looks_like_split(each.name) and each not in splits]
    if odd:
        raise UserError(_describe_split_classes(name, odd))
    others = [each.name for each in folders if each not in splits]
    if others and any(is_image(each) for folder in splits for each in folder.iterdir()):
        raise UserError(
            f"{name}: is {split}/ a class or a split? It holds images and lies beside {others[0]}/;"
            f" if it is a class, call it 'a {split}', else move classes into {split}/"
        )
    if all(split_of(each.name) != "train" for each in splits):
        found = ", ".join(f"{folder.name}/" for folder in splits)
        raise UserError(f"{name}: has {found} but no train/; add it, or name a class differently")


def _refuse_flat_split(name: str, splits: Mapping[str, Path]) -> None:
    """Refuse a split of images without labels, as test images often are."""
    for split, root in splits.items():
        entries = list(root.iterdir())
        images = sum(map(is_image, entries))
        if split != "train" and images and not any(map(is_class, entries)):
            train = f"pass folder:{splits['train']}"
            remedy = f"move {root.name}/ away" if len(splits) > 2 else train
            raise UserError(
                f"{name}: {root.name}/ has {images} images, and no folder of a class; {remedy}, and"
                " classify those images by compress predict"
            )


def _check_unsplit(name: str, path: Path) -> None:
    """Refuse classes that look like splits, and a folder one level above the classes."""
    classes = [each.name for each in sorted(path.iterdir()) if is_class(each)]
    odd = [each for each in classes if looks_like_split(each)]
    if odd:
        raise UserError(_describe_split_classes(name, odd))
    inside = {each: found for each in classes if (found := _list_inner(path / each))}
    if len(classes) == 1 and inside:
        raise UserError(f"{name}: has one class; did you mean {name}/{classes[0]}?")
    for each, folders in inside.items():
        if all(map(looks_like_split, folders)):
            raise UserError(
                f"{name}: {each}/ holds splits ({', '.join(folders)}); put the splits"
                " outside and the classes inside: train/CLASS/, test/CLASS/"
            )


def _check_crossed(name: str, root: Path) -> None:
    """Refuse folders that all hold the same folders, as images/cat and labels/cat, images/dog ….

    Either may be the classes. Of a single one with images in each, as cat/images, the outer are.
    """
    outer = [each for each in sorted(root.iterdir()) if is_class(each)]
    found = {
        tuple(inner for inner in _list_inner(each) if any(map(is_image, walk_files(each / inner))))
        for each in outer
    }
    inner = found.pop() if len(found) == 1 else ()
    if len(outer) > 1 and len(inner) > 1:
        raise UserError(
            f"{name}: {_list_few(each.name for each in outer)} all hold {_list_few(inner)}, and"
            f" either may be the classes; put the images of each class directly into its folder in"
            f" {root}, or list them with their labels in a table: csv:FILE"
        )


def _list_inner(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted; none if it holds images as well."""
    # A class may hold many thousand images: the first of them is enough to know.
    if any(map(is_image, folder.iterdir())):
        return ()
    return tuple(sorted(each.name for each in folder.iterdir() if is_class(each)))


def _list_few(names: Iterable[str]) -> str:
    return ", ".join(f"{each}/" for each in islice(names, 3))


def _describe_split_classes(name: str, classes: Sequence[str]) -> str:
    found = ", ".join(f"{each}/" for each in classes)
    verb, noun = ("looks", "a split") if len(classes) == 1 else ("look", "splits")
    return (
        f"{name}: {found} {verb} like {noun} and not like classes; call splits train/, val/ and"
        " test/, with the classes inside, or rename the classes"
    )


def _unnest(folder: Path) -> Path:
    """Return the split folder inside of one with the same name, as archives often have it."""
    inside = [each for each in folder.iterdir() if is_class(each)]
    nested = len(inside) == 1 and inside[0].name.lower() == folder.name.lower()
    return inside[0] if nested else folder


def list_images(name: str, root: Path) -> tuple[tuple[str, ...], Files]:
    """List the images below ``root/CLASS/``; none is decoded.

    Returns:
        The classes, sorted, and the files.

    Raises:
        UserError: `root` has no classes, or a class has no images.
    """

    try:
        folders = sorted(filter(is_class, root.iterdir()))
        classes = tuple(sorted({normalize_name(each.name) for each in folders}))
        if not classes:
            raise UserError(_describe_flat(root))
        numbers = {each: number for number, each in enumerate(classes)}
        samples = [
            (str(file), numbers[normalize_name(each.name)])
            for each in folders
            for file in walk_files(each)
            if is_image(file) and not is_hidden(file.relative_to(root))
        ]
    except (OSError, UserError) as error:
        raise UserError(f"cannot read {_where(name, root)}: {one_line(error)}") from error
    empty = set(range(len(classes))) - {number for _, number in samples}
    if empty:
        folder = classes[min(empty)]
        held = count_endings(each for each in folders if normalize_name(each.name) == folder)
        what = f"no images in {folder}/" + (
            f", which holds files that are not read: {describe_endings(held)}" if held else ""
        )
        raise UserError(f"cannot read {_where(name, root)}: {what}; remove it or add images")
    return classes, _to_files(samples, root)


def _describe_flat(root: Path) -> str:
    images = sum(map(is_image, root.iterdir()))
    if not images:
        return "there is no folder of a class"
    return (
        f"{images} images, and no folder of a class; move them into a folder for each class, or"
        " list them with their labels in a table: csv:FILE"
    )


def _where(name: str, root: Path) -> str:
    """Return the name of data, with the folder that is meant if the name lacks it."""
    return name if name == f"folder:{root}" else f"{name} under {root}"


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
