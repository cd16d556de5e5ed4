"""What lies in folders of images: classes, images, and what is skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from compress.data.formats import SUFFIXES

# Folders that operating systems and tools leave behind, besides hidden ones.
SYSTEM_FOLDERS = ("__MACOSX", "__pycache__", "System Volume Information", "$RECYCLE.BIN")


def _is_skipped(folder: Path) -> bool:
    return folder.name.startswith(".") or folder.name in SYSTEM_FOLDERS


def is_class(path: Path) -> bool:
    """Return True for a folder that is neither hidden nor a system folder."""
    return path.is_dir() and not _is_skipped(path)


def is_image(path: Path) -> bool:
    """Return True for a file that bears the name of an image."""
    return path.suffix.lower() in SUFFIXES


def is_hidden(path: Path) -> bool:
    """Return True if a part of a relative path is hidden, or a system folder."""
    return any(part.startswith(".") or part in SYSTEM_FOLDERS for part in path.parts)


def describe_skipped(roots: Iterable[Path], unused: Iterable[str] = ()) -> tuple[str, ...]:
    """Describe the folders and files that are passed over: one line for each kind.

    Args:
        unused: names of folders beside the splits.
    """
    folders, loose, classes = list(unused), 0, []
    for root in roots:
        for entry in sorted(root.iterdir()):
            if entry.is_dir() and not _is_skipped(entry):
                classes.append(entry)
            elif entry.is_dir():
                folders.append(entry.name)
            elif is_image(entry) and not entry.name.startswith("."):
                loose += 1
    endings = count_endings(classes)
    notes = []
    if folders:
        notes.append(f"skipped folders: {', '.join(dict.fromkeys(folders))}")
    if loose:
        notes.append(f"skipped images outside of the folders of classes: {loose}")
    if endings:
        heif = {".heic", ".heif", ".hif"} & set(endings)
        hint = " (pip install 'compress[heif]' to read HEIF)" if heif else ""
        notes.append(
            f"skipped files that are not read as images: {describe_endings(endings)}{hint}"
        )
    return tuple(notes)


def count_endings(folders: Iterable[Path]) -> Counter[str]:
    """Count the files below `folders` that are not read as images, by their endings."""
    return Counter(
        file.suffix.lower()
        for folder in folders
        for file in folder.rglob("*")
        if not is_image(file) and not is_hidden(file.relative_to(folder)) and file.is_file()
    )


def describe_endings(endings: Counter[str]) -> str:
    """Describe files by their endings, as ``3 .txt, 1 .xml``."""
    return ", ".join(
        f"{count} {ending or 'without an ending'}" for ending, count in endings.most_common()
    )
