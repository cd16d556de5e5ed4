"""Class-balanced selections, each a pure function of the targets, a count and a seed."""

import heapq

import torch
from torch import Tensor

from compress.data.random_views import make_generator


def split(targets: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` rows chosen at random, each class in proportion, and the rows that are left.

    Targets are int64 (N,); both results are int64 and ascending, and together they are
    ``range(N)``. Each class's count is its exact proportion rounded up or down. With the same seed,
    a smaller choice is part of a larger one.
    """
    if count == len(targets):
        return torch.arange(count), torch.arange(0)
    order = balanced_order(targets, seed)
    return order[:count].sort().values, order[count:].sort().values


def balanced_order(targets: Tensor, seed: int) -> Tensor:
    """A random order of all rows, int64 (N,), every prefix of which holds each class in proportion,
    rounded.

    The r-th image of a class of n among N has to come after place (r-1)N/n, or the class would be
    over its proportion, and by place rN/n, or it would be under. Serving the earliest deadline
    first meets them all (Steiner and Yeomans 1993, "Level schedules for mixed-model, just-in-time
    processes").
    """
    total = len(targets)
    random = make_generator("split", seed)
    shuffled = torch.randperm(total, generator=random)
    rows = shuffled[
        targets.cpu()[shuffled].argsort(stable=True)
    ]  # class by class, each in random order
    counts = torch.bincount(targets.cpu()).tolist()
    ties = torch.randperm(len(counts), generator=random).tolist()
    starts = [0, *torch.tensor(counts).cumsum(0).tolist()]
    waiting = [
        (
            r * total // n,
            -(-(r + 1) * total // n),
            ties[c],
            starts[c] + r,
        )  # released, due, tie-break, index
        for c, n in enumerate(counts)
        for r in range(n)
    ]
    waiting.sort(reverse=True)
    ready: list[tuple[int, int, int]] = []
    order = []
    for place in range(total):
        while waiting and waiting[-1][0] <= place:
            heapq.heappush(ready, waiting.pop()[1:])
        order.append(heapq.heappop(ready)[2])
    return rows[order]
