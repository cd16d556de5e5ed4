"""Checks of image files before training: all are decoded once, and broken ones are named."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image

from compress.data.cache import VERIFIED, cache_root
from compress.data.decode import check_sides, describe_error, open_regular
from compress.data.formats import FORMATS
from compress.data.masks import find_mask_faults
from compress.data.source import Files, Images, Source
from compress.runtime import distributed
from compress.runtime.errors import UserError
from compress.runtime.quiet import no_warnings

T = TypeVar("T")

# Broken files that a message names.
NAMED = 5

# Below these numbers of files, checking them is faster than remembering it, or not worth a line.
REMEMBERED_FROM, SAID_FROM = 256, 5_000

# Files after which the verdicts are saved.
CHUNK = 10_000

# Verdicts that are remembered: size in bytes and time in nanoseconds of each good file, by name.
Verdicts = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Broken:
    """A file that cannot be read, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


def verify_source(
    source: Source, *, skip_broken: bool = False, log: Callable[[str], None] = lambda line: None
) -> Source:
    """Check the image files of all splits of a source; images in memory are not checked.

    Args:
        skip_broken: leave broken files out, and add a note that says so.
        log: called with a line if there are many files to check.

    Returns:
        The source, without its broken files.

    Raises:
        UserError: files are broken, and `skip_broken` is False; or a class has no other files.
    """
    if not isinstance(source.train, Files):
        return source
    test = source.test()
    splits = [each for each in (source.train, source.val, test) if isinstance(each, Files)]
    found: list[Broken] = []
    if distributed.is_main():
        # A mask is compared with its image, which must be readable.
        found = find_broken(splits, log) or _find_broken_masks(source, splits)
    broken = distributed.broadcast(found)
    if not broken:
        return replace(source, test_count=len(test.targets))
    total = sum(len(each.names) for each in splits)
    listed = _describe(broken, total)
    if not skip_broken:
        raise UserError(f"{source.name}: {listed}; replace or remove them, or pass --skip-broken")
    bad = {each.path for each in broken}
    rows = _good_rows(source.train, bad)
    kept = replace(
        source,
        train=source.train.take(rows),
        groups=None if source.groups is None else source.groups[rows],
        val=_without(source.val, bad) if source.val else None,
        test=lambda: _without(test, bad),
        test_count=len(_without(test, bad).targets),
        notes=(*source.notes, f"left out (skip_broken): {listed}"),
    )
    _check_classes(kept)
    return kept


def find_broken(splits: Iterable[Files], log: Callable[[str], None]) -> list[Broken]:
    """Decode all files that are not known to be good, and return those that cannot be read.

    The files that can be read are remembered with their size and time in the cache folder.
    """
    broken: list[Broken] = []
    for files in splits:
        names = tuple(dict.fromkeys(files.names))
        root = files.root.resolve()
        memory = _open_memory() if len(names) >= REMEMBERED_FROM else None
        with closing(memory) if memory else nullcontext():
            unknown = _stat_unknown(root, names, _recall(memory, root))
            if len(unknown) >= SAID_FROM:
                log(f"checking {len(unknown):,} image files under {files.root}, once")
            for chunk in _chunks(list(unknown.items())):
                faults = _find_faults([root / name for name, _ in chunk])
                good = {
                    name: mark
                    for (name, mark), fault in zip(chunk, faults, strict=True)
                    if fault is None and mark is not None
                }
                _remember(memory, root, good)
                broken += [
                    Broken(files.root / name, fault)
                    for (name, _), fault in zip(chunk, faults, strict=True)
                    if fault is not None
                ]
    return broken


def _find_broken_masks(source: Source, splits: Iterable[Files]) -> list[Broken]:
    """Decode all masks, and return those that do not fit their image or the classes.

    A broken mask stands for its image.
    """
    return [
        Broken(files.root / name, fault)
        for files in splits
        for name, fault in find_mask_faults(files, len(source.classes))
    ]


def _chunks(items: list[T]) -> Iterator[list[T]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def _stat_unknown(
    root: Path, names: Iterable[str], known: Verdicts
) -> dict[str, tuple[int, int] | None]:
    """Return size and time of each file that is not known; None for one that is not there."""
    unknown: dict[str, tuple[int, int] | None] = {}
    for name in names:
        mark = None
        with suppress(OSError):
            found = os.stat(root / name)  # noqa: PTH116
            mark = (found.st_size, found.st_mtime_ns)
        if mark is None or known.get(name) != mark:
            unknown[name] = mark
    return unknown


def _find_faults(paths: list[Path]) -> list[str | None]:
    """Return what is wrong with each file; None if it can be decoded."""
    # Pillow decodes without Python's lock.
    with no_warnings, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return list(threads.map(_find_fault, paths))


def _find_fault(path: Path) -> str | None:
    try:
        if path.stat().st_size == 0:
            return "an empty file"
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            check_sides(image)
            # All of a JPEG is read even at an eighth of its size, in a third of the time.
            image.draft(None, (1, 1))
            image.load()
    # For damaged files, Pillow raises errors of a dozen types.
    except Exception as error:
        return describe_error(error)
    return None


def _open_memory() -> sqlite3.Connection | None:
    """Open the table of good files; None if the cache folder cannot be written."""
    with suppress(OSError, sqlite3.Error):
        cache_root().mkdir(parents=True, exist_ok=True)
        memory = sqlite3.connect(cache_root() / VERIFIED)
        memory.execute(
            "CREATE TABLE IF NOT EXISTS good (root TEXT, name TEXT, size INTEGER, time INTEGER,"
            " PRIMARY KEY (root, name)) WITHOUT ROWID"
        )
        return memory
    return None


def _recall(memory: sqlite3.Connection | None, root: Path) -> Verdicts:
    if memory is None:
        return {}
    with suppress(sqlite3.Error):
        found = memory.execute("SELECT name, size, time FROM good WHERE root = ?", (str(root),))
        return {name: (size, time) for name, size, time in found}
    return {}


def _remember(memory: sqlite3.Connection | None, root: Path, good: Verdicts) -> None:
    if memory is None or not good:
        return
    rows = [(str(root), name, *mark) for name, mark in good.items()]
    with suppress(sqlite3.Error, UnicodeEncodeError), memory:
        memory.executemany("INSERT OR REPLACE INTO good VALUES (?, ?, ?, ?)", rows)


def _describe(broken: list[Broken], total: int) -> str:
    named = ", ".join(map(str, broken[:NAMED]))
    more = f" and {len(broken) - NAMED:,} more" if len(broken) > NAMED else ""
    return f"{len(broken):,} of {total:,} image files cannot be read: {named}{more}"


def _good_rows(files: Files, bad: set[Path]) -> torch.Tensor:
    rows = [row for row, name in enumerate(files.names) if files.root / name not in bad]
    return torch.tensor(rows, dtype=torch.int64)


def _without(images: Images, bad: set[Path]) -> Images:
    return images.take(_good_rows(images, bad)) if isinstance(images, Files) else images


def _check_classes(source: Source) -> None:
    if source.train.masks is not None:
        return
    counts = torch.bincount(source.train.targets, minlength=len(source.classes)).tolist()
    for name, count in zip(source.classes, counts, strict=True):
        if count == 0:
            raise UserError(f"{source.name}: no training image of {name!r} can be read")
