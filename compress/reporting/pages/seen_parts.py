"""What a page shows of a network's answers to images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from compress.reporting.pages.pictures import Picture

# Pictures in each part of a page, and the most classes whose matrix can be read.
PICTURES, MATRIX_CLASSES = 24, 30


@dataclass(frozen=True)
class Seen:
    """What a network does with the images of a split.

    Args:
        about: its metrics, in a sentence.
        names: the classes.
        matrix: for each pair of classes, the number that is shown, strength of its colour in
            percent, and True on the diagonal; empty if there are too many classes.
        pairs: the classes that are confused most, as a table; None if none are.
        classes: the metrics of each class, as a table.
        worst: the images that it gets most wrong.
        worst_about: what these pictures show, in a sentence.
        other: name of the network that it is compared with.
        count: how far the two differ, in words.
        different: images on which they differ, the surest first.
        note: why there is no comparison, where there could be one.
        masks: True if pictures are rows of an image and masks.
    """

    about: str
    names: tuple[str, ...]
    matrix: list[list[tuple[int | str, str, bool]]]
    pairs: Markup | None
    classes: Markup
    worst: list[Picture]
    worst_about: str
    other: str = ""
    count: str = ""
    different: tuple[Picture, ...] = ()
    note: str = ""
    masks: bool = False


def shade(
    fractions: Sequence[Sequence[float]], shown: Sequence[Sequence[int | str]]
) -> list[list[tuple[int | str, str, bool]]]:
    """Return a confusion matrix as `Seen` has it; an empty one if there are too many classes.

    Args:
        fractions: of each class, by predicted class in columns.
        shown: what each cell shows.
    """
    if len(fractions) > MATRIX_CLASSES:
        return []
    # Few mistakes are to be seen beside many right answers.
    return [
        [
            (
                cell,
                f"{70 * part if other == number else 8 + 90 * math.sqrt(part):.0f}",
                other == number,
            )
            for other, (part, cell) in enumerate(zip(parts, cells, strict=True))
        ]
        for number, (parts, cells) in enumerate(zip(fractions, shown, strict=True))
    ]


def name_split(images: int, split: str, data: str) -> str:
    """Return what was scored: ``80 images of the test split of folder:photos``."""
    name = "validation" if split == "val" else split
    return f"{images:,} images of the {name} split of {data}"
