"""Class numbers of a source in the order of a trained network's classes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from compress.data.source import IGNORE, Images, Pixels, Source


def number_as(source: Source, classes: tuple[str, ...]) -> Source:
    """Return a source with the class numbers of a network.

    Args:
        classes: names of the network's classes, among them all of the source's.
    """
    if source.classes == classes:
        return source
    numbers = torch.tensor([classes.index(each) for each in source.classes], dtype=torch.int64)
    # Not `source` itself, which would keep its training images in memory.
    read = source.test
    return replace(
        source,
        classes=classes,
        train=_renumber(source.train, numbers),
        val=None if source.val is None else _renumber(source.val, numbers),
        test=lambda: _renumber(read(), numbers),
    )


def _renumber(images: Images, numbers: Tensor) -> Images:
    """Give images, or the pixels of their masks, other class numbers."""
    if images.masks is None:
        return replace(images, targets=numbers[images.targets])
    table = torch.arange(IGNORE + 1, dtype=torch.uint8)
    table[: len(numbers)] = numbers.to(torch.uint8)
    if isinstance(images, Pixels):
        return replace(images, masks=table[images.masks.long()])
    values = list(range(IGNORE + 1))
    values[: len(images.masks.numbers)] = images.masks.numbers
    masks = replace(images.masks, numbers=tuple(table[torch.tensor(values)].tolist()))
    return replace(images, masks=masks)
