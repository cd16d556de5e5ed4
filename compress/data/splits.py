"""Class-balanced selections, each a pure function of the targets, a count and a seed."""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

from compress.data.random_views import make_generator


def split_rows(targets: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose `count` rows at random, with each class in proportion.

    The number of rows of a class is its exact proportion, rounded up or down. With the same seed, a
    smaller selection is part of a larger one.

    Args:
        targets: class numbers, int64 (N,).

    Returns:
        The chosen rows, int64 (count,), and the other rows, int64 (N - count,), both ascending.
    """
    if count == len(targets):
        return torch.arange(count), torch.arange(0)
    order = draw_balanced_order(targets, seed)
    return order[:count].sort().values, order[count:].sort().values


def split_groups(targets: Tensor, groups: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose whole groups at random, of about `count` rows, with each class in proportion.

    A group counts for the class of its first row. No class loses its last group, so that fewer rows
    are chosen if groups are large.

    Args:
        targets: class numbers, int64 (N,).
        groups: group of each row, int64 (N,).

    Returns:
        The chosen rows, at most `count`, and the other rows, both ascending int64.
    """
    _, members = torch.unique(groups, return_inverse=True)
    sizes = members.bincount().tolist()
    first = torch.full((len(sizes),), len(targets)).scatter_reduce(
        0, members, torch.arange(len(targets)), "amin"
    )
    kinds = targets[first]
    left = kinds.bincount(minlength=int(targets.max()) + 1).tolist()
    # Rows of each class that may still be chosen.
    allowed = [round(count * rows / len(targets)) for rows in targets.bincount().tolist()]
    chosen = torch.zeros(len(sizes), dtype=torch.bool)
    room = count
    for group in draw_balanced_order(kinds, seed).tolist():
        kind, size = int(kinds[group]), sizes[group]
        if left[kind] > 1 and size <= min(room, allowed[kind]):
            chosen[group] = True
            left[kind] -= 1
            allowed[kind] -= size
            room -= size
    picked = chosen[members]
    return picked.nonzero()[:, 0], (~picked).nonzero()[:, 0]


def draw_balanced_order(targets: Tensor, seed: int) -> Tensor:
    """Draw an order of all rows whose every prefix has each class in proportion: int64 (N,).

    Proportions are rounded up or down.

    The r-th row of a class with n of N rows must come after position (r-1)N/n, or the class would
    exceed its proportion, and by position rN/n, or it would fall short. Serving the earliest
    deadline first satisfies all of these (Steiner and Yeomans 1993, "Level schedules for
    mixed-model, just-in-time processes").
    """
    total = len(targets)
    random = make_generator("split", seed)
    shuffled = torch.randperm(total, generator=random)
    # Class by class, each in random order.
    rows = shuffled[targets.cpu()[shuffled].argsort(stable=True)]
    counts = torch.bincount(targets.cpu()).tolist()
    ties = torch.randperm(len(counts), generator=random).tolist()
    starts = [0, *torch.tensor(counts).cumsum(0).tolist()]
    # Of each row: release, deadline, tie-break, index.
    waiting = [
        (r * total // n, -(-(r + 1) * total // n), ties[c], starts[c] + r)
        for c, n in enumerate(counts)
        for r in range(n)
    ]
    waiting.sort(reverse=True)
    ready: list[tuple[int, int, int]] = []
    order = []
    for position in range(total):
        while waiting and waiting[-1][0] <= position:
            heapq.heappush(ready, waiting.pop()[1:])
        order.append(heapq.heappop(ready)[2])
    return rows[order]
