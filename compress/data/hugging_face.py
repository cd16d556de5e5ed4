"""Data sets of Hugging Face: from the hub, saved ones, image folders and parquet files."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.data.cache import TABLE_IMAGES, cache_root, create_folder
from compress.data.folder_checksums import check_folder
from compress.data.labelled_files import make_source, to_numbers
from compress.data.source import Files, Source
from compress.data.split_names import split_of
from compress.recipe.data_names import expand_home
from compress.runtime.errors import UserError, one_line
from compress.runtime.text import normalize_name

# Usual names of the columns, the likeliest first; of several, the first is taken.
IMAGE_COLUMNS = ("image", "img", "images", "pixels")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category", "target", "coarse_label")

# Types of labels, as they begin.
LABEL_TYPES = ("string", "large_string", "int", "uint", "bool")

# Files by which a folder that `save_to_disk` wrote is known.
SAVED_FILES = ("dataset_dict.json", "state.json")

# Class number of images that are not labelled, as in many test splits.
UNLABELLED = -1


def open_hugging_face(place: str) -> Source:
    """Open a data set by its name on the hub, or the path of a local one.

    A local one is a folder that ``save_to_disk`` wrote, or one that ``load_dataset`` reads, with
    parquet files for example. The columns of images and labels are found by their types and names.
    Images that lie inside of tables are written to the cache as files, once. A split without labels
    is left out, and a note says so.

    Raises:
        UserError: the package is missing, the data set cannot be loaded, or a split has no column
            of images, or the training split none of labels.

    Example:
        >>> open_hugging_face("beans").classes
        ('angular_leaf_spot', 'bean_rust', 'healthy')
    """
    name = f"hf:{place}"
    tables = _load_tables(name, place)
    train = tables["train"]
    image, labels = _find_image_column(name, train), _list_label_columns(train)
    label = _choose_column(name, "labels", labels, LABEL_COLUMNS, train)
    others = ", ".join(repr(each) for each in labels if each != label)
    notes = [f"labels are the column {label!r}, and not {others}"] if others else []
    labelled = {split: _drop_unlabelled(table, label) for split, table in tables.items()}
    tables = {split: table for split, table in labelled.items() if len(table)}
    notes += [
        f"its {split} split has no labels in the column {label!r}: left out"
        for split in labelled
        if split not in tables
    ]
    for split, table in tables.items():
        if image not in table.features:
            raise UserError(f"{name}: its {split} split has no column {image!r}; add or rename it")
    classes = _find_classes(name, tables, label)
    splits = {}
    for split, table in tables.items():
        labels = [_name_label(train, label, value) for value in table[label]]
        root, names = _find_files(name, table, image)
        splits[split] = Files(root, names, to_numbers(labels, classes))
    return make_source(name, classes, splits, notes)


def _load_tables(name: str, place: str) -> dict[str, Any]:
    """Load the tables of the splits: train, val, test."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"{name}: needs the package datasets: pip install 'compress[hf]'"
        ) from error
    path = expand_home(place)
    datasets.disable_progress_bars()
    # The hub's client would write a line for each of its attempts.
    for library in ("datasets", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        if path.is_dir() and any((path / each).is_file() for each in SAVED_FILES):
            found = datasets.load_from_disk(str(path))
        else:
            found = datasets.load_dataset(str(path) if path.exists() else place)
    # The library, its readers and its network stack raise errors of many types.
    except Exception as error:
        remedy = (
            "name a folder that datasets can load"
            if path.exists()
            else "check the name and the network, or pass the path of a local copy"
        )
        raise UserError(f"{name}: cannot be loaded ({one_line(error)}); {remedy}") from error
    tables = dict(found) if isinstance(found, Mapping) else {"train": found}
    return _name_splits(name, tables)


def _name_splits(name: str, tables: dict[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for split, table in tables.items():
        usual = split_of(split)
        if usual is not None:
            known.setdefault(usual, table)
    if len(tables) == 1:
        return {"train": next(iter(tables.values()))}
    if "train" not in known:
        raise UserError(f"{name}: no split called train; splits found: {', '.join(tables)}")
    return known


def _find_image_column(name: str, table: Any) -> str:
    import datasets

    columns = [key for key, kind in table.features.items() if isinstance(kind, datasets.Image)]
    return _choose_column(name, "images", columns, IMAGE_COLUMNS, table)


def _list_label_columns(table: Any) -> list[str]:
    import datasets

    features = table.features.items()
    return [key for key, kind in features if isinstance(kind, datasets.ClassLabel)] or [
        key
        for key, kind in features
        if key.lower() in LABEL_COLUMNS and _describe_type(kind).startswith(LABEL_TYPES)
    ]


def _choose_column(
    name: str, what: str, columns: list[str], usual: tuple[str, ...], table: Any
) -> str:
    preferred = [each for word in usual for each in columns if each.lower() == word]
    if preferred or len(columns) == 1:
        return (preferred or columns)[0]
    found = ", ".join(f"{key} ({_describe_type(kind)})" for key, kind in table.features.items())
    wrong = [key for key in table.features if key.lower() in usual and not columns]
    if wrong:
        kind = _describe_type(table.features[wrong[0]])
        raise UserError(
            f"{name}: {what} are in {wrong[0]!r}, of type {kind}; cast it to datasets.Image()"
            if what == "images"
            else f"{name}: {what} are in {wrong[0]!r}, of type {kind}; cast it to whole numbers or"
            " names, one for each image"
        )
    problem = f"several columns of {what}" if columns else f"no column of {what}"
    raise UserError(f"{name}: {problem}; call one {usual[0]!r}; columns: {found[:300]}")


def _describe_type(kind: Any) -> str:
    return str(getattr(kind, "dtype", type(kind).__name__))


def _drop_unlabelled(table: Any, label: str) -> Any:
    if label not in table.features:
        return table.select([])
    values = table[label]
    rows = [row for row, value in enumerate(values) if value not in (None, UNLABELLED)]
    return table if len(rows) == len(table) else table.select(rows)


def _find_classes(name: str, tables: dict[str, Any], label: str) -> tuple[str, ...]:
    """Return the classes: those of ClassLabel, else the sorted labels, the same in all splits."""
    if "train" not in tables:
        raise UserError(f"{name}: no labelled training images")
    names = _class_names(tables["train"], label)
    if any(_class_names(table, label) != names for table in tables.values()):
        raise UserError(f"{name}: its splits have different classes in {label!r}")
    if names is not None:
        return tuple(names)
    found = {split: set(map(_spell, table.unique(label))) for split, table in tables.items()}
    for split, labels in found.items():
        odd = sorted(map(str, labels ^ found["train"]))
        if odd:
            raise UserError(
                f"{name}: {split} and the training split have different classes ({odd[0]!r} is in"
                " only one)"
            )
    return tuple(str(each) for each in sorted(found["train"]))


def _class_names(table: Any, label: str) -> list[str] | None:
    """Return the names of a ClassLabel; None for labels of other types."""
    names: list[str] | None = getattr(table.features[label], "names", None)
    return names


def _name_label(table: Any, label: str, value: Any) -> str:
    names = _class_names(table, label)
    return str(_spell(value)) if names is None else names[value]


def _spell(label: Any) -> Any:
    return normalize_name(label) if isinstance(label, str) else label


def _find_files(name: str, table: Any, image: str) -> tuple[Path, tuple[str, ...]]:
    """Return the folder and the names of a table's image files, after writing them if necessary."""
    import datasets

    raw = table.cast_column(image, datasets.Image(decode=False)).select_columns([image])
    first = raw[0][image]
    if first and first["bytes"] is None and Path(first["path"]).is_file():
        found = [row[image] for row in raw]
        if all(found):
            paths = [each["path"] for each in found]
            root = Path(os.path.commonpath([Path(each).parent for each in paths]))
            return root, tuple(Path(each).relative_to(root).as_posix() for each in paths)
    return _write_files(name, raw, image)


def _write_files(name: str, raw: Any, image: str) -> tuple[Path, tuple[str, ...]]:
    """Write the images of a table to the cache, unless they are there."""
    key = hashlib.sha256(f"{name}\0{raw._fingerprint}\0{len(raw)}".encode()).hexdigest()[:16]
    root = cache_root() / TABLE_IMAGES / key
    names = tuple(f"{row:07}.img" for row in range(len(raw)))

    def fill(staging: Path) -> None:
        folder = staging / key
        folder.mkdir()
        for file, row in zip(names, raw, strict=True):
            (folder / file).write_bytes(_read_content(row[image]))

    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        create_folder(root, fill)
        check_folder(root)
    except (OSError, TypeError) as error:
        raise UserError(
            f"{name}: its images cannot be written to {root} ({one_line(error)}); name another"
            " folder in COMPRESS_DATA"
        ) from error
    return root, names


def _read_content(image: Mapping[str, Any] | None) -> bytes:
    """Return the bytes of an image; none of a missing one, which the check of all files names."""
    if image is None:
        return b""
    if image["bytes"] is not None:
        return bytes(image["bytes"])
    path = Path(image["path"])
    return path.read_bytes() if path.is_file() else b""
