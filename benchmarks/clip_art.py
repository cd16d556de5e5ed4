"""Gather a small data set of real drawings, the Open Clip Art Library, for `accuracy.py`.

    apt-get install openclipart-png
    python benchmarks/clip_art.py clip-art

It writes clip-art/train and clip-art/test, with a folder for each class. Drawings whose names begin
with the same word (`apple_01`, `apple_bw`) are in one split, and a drawing that the library has in
two classes is left out.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import defaultdict
from pathlib import Path

import click
from PIL import Image

SIDE, HELD_OUT = 96, 3
# Folders of the library that are a class, and folders in them that are not.
CLASSES = {
    "animals": "animals",
    "buildings": "buildings",
    "clothing": "people/clothing",
    "computers": "computer/hardware",
    "food": "food",
    "music": "recreation/music",
    "people": "people",
    "plants": "plants",
    "sports": "recreation/sports",
    "tools": "tools",
    "vehicles": "transportation",
}
LEFT_OUT = {"aiga-symbols", "bodypart", "clothing", "roadsigns", "smilies"}


def gather(source: Path) -> dict[str, list[Path]]:
    """Map each class to its drawings, without those that are in two classes."""
    places: dict[str, dict[str, Path]] = defaultdict(dict)
    for name, folder in CLASSES.items():
        root = source / folder
        for file in sorted(root.rglob("*.png")):
            if LEFT_OUT.isdisjoint(file.relative_to(root).parts):
                places[digest(file.read_bytes())].setdefault(name, file)
    drawings: dict[str, list[Path]] = defaultdict(list)
    for found in places.values():
        if len(found) == 1:
            [(name, file)] = found.items()
            drawings[name].append(file)
    return drawings


def is_held_out(file: Path) -> bool:
    """Whether a drawing is in the test split; the first word of its name decides."""
    word = re.split(r"[^a-z]", file.stem.lower())[0]
    return int(digest(word.encode()), 16) % HELD_OUT == 0


def digest(content: bytes) -> str:
    """Return what equal contents share, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@click.command(help=(__doc__ or "").splitlines()[0])
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--source",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default="/usr/share/openclipart/png",
    show_default=True,
    help="The library.",
)
def main(out: Path, source: Path) -> None:
    """Write the images of both splits, at most 96 pixels wide and high."""
    for name, files in gather(source).items():
        for file in files:
            folder = out / ("test" if is_held_out(file) else "train") / name
            folder.mkdir(parents=True, exist_ok=True)
            with warnings.catch_warnings():
                # A few drawings are huge.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(file) as image:
                    small = image.convert("RGBA")
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            small.save(folder / file.name)


if __name__ == "__main__":
    main()
