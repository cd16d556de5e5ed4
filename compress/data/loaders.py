"""The images of a DataLoader: those that its sampler draws."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    default_collate,
    default_convert,
)

from compress.runtime.errors import UserError

OWN_COLLATE = "the DataLoader's collate_fn is not used: items are read one by one"


def unwrap_loader(loader: DataLoader[Any], where: str) -> tuple[Any, tuple[str, ...]]:
    """Return the dataset of a loader, or the part of it that its sampler draws; and notes.

    Args:
        where: the split, for messages.

    Raises:
        UserError: the sampler draws some images several times.

    Example:
        >>> images = TensorDataset(torch.rand(9, 3, 8, 8), torch.arange(9) % 3)
        >>> loader = DataLoader(images, 4, sampler=SubsetRandomSampler(range(6)))
        >>> len(unwrap_loader(loader, "data")[0])
        6
    """
    known = loader.collate_fn in (default_collate, default_convert)
    notes = () if known else (OWN_COLLATE,)
    data: Any = loader.dataset
    if isinstance(data, IterableDataset) or _draws_all(loader):
        return data, notes
    # A sampler may be endless.
    rows = list(islice(_draw(loader), len(data) + 1))
    if len(set(rows)) < len(rows):
        kind = type(_find_sampler(loader)).__name__
        raise UserError(
            f"{where}: the DataLoader's {kind} draws images several times; pass its dataset, or a"
            " torch.utils.data.Subset of it"
        )
    return Subset(data, sorted(rows)), notes


def _find_sampler(loader: DataLoader[Any]) -> Any:
    batches: Any = loader.batch_sampler
    if batches is None:
        return loader.sampler
    return batches.sampler if type(batches) is BatchSampler else batches


def _draws_all(loader: DataLoader[Any]) -> bool:
    """Return True if the usual sampler, or its copies in all processes, draw each image once."""
    sampler = _find_sampler(loader)
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    return type(sampler) in (SequentialSampler, DistributedSampler)


def _draw(loader: DataLoader[Any]) -> Iterator[int]:
    sampler = _find_sampler(loader)
    if sampler is not loader.batch_sampler:
        sampler = [sampler]
    for rows in sampler:
        yield from map(int, rows)
