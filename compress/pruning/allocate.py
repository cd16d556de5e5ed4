"""How to land on a budget: remove the units that are worth least for what they cost, and fill the room that is left."""

from __future__ import annotations

import heapq
import itertools
import math

from torch import Tensor

from compress.pruning.structure import Structure
from compress.recipe.budget import Limits

LANDED = 0.99  # of the budget: with this much of it used, nothing more is looked for
CHOICES = 1000  # of widths, at most, that are tried out for one that lands


def widths(
    structure: Structure,
    worth: list[Tensor],
    limits: Limits,
    floors: list[int],
    whole: list[int],
    round_to: int,
) -> list[int]:
    """How many units each coupling keeps, so that the network fits into `limits`.

    Units go by `multiple` at a time as long as they can. At the end those that still fit into the room that is left
    come back, and where less than `LANDED` of the budget is used then, units are exchanged: both one by one if need be.

    Args:
        worth: of each unit of each coupling, (units,).
        floors: units that each coupling keeps in any case.
        whole: units that each coupling had before any pruning.
    """
    choice = Choice(structure, worth, limits, floors, whole)
    steps = (round_to, 1) if round_to > 1 else (1,)
    for units in steps:  # whole multiples as far as they go
        choice.cut(units)
    for units in steps:
        choice.fill(units)
    choice.exchange()
    structure.reset()
    return choice.kept


class Choice:
    """How many units each coupling keeps, `kept` (all of them at first), and the network's size then, `total`."""

    def __init__(
        self,
        structure: Structure,
        worth: list[Tensor],
        limits: Limits,
        floors: list[int],
        whole: list[int],
    ) -> None:
        self.structure, self.limits, self.floors, self.whole = structure, limits, floors, whole
        self.sizes, self.neighbours = structure.sizes(), structure.neighbours()
        self.ranked = [w.sort().values.tolist() for w in worth]  # removal goes from the front
        self.kept, self.total = list(self.sizes), structure.size(self.sizes)

    def value(self, i: int, width: int, units: int) -> float:
        """What the last `units` units are worth of the `width` that coupling i has.

        That is their own score times the square of how far the layer has been narrowed: what few channels are left
        carry what all of them carried before. The square is the least that keeps a balance: parameters are products
        of two layers' widths, and with less than that one of the two is starved to feed the other.
        """
        gone = self.sizes[i] - width
        return float(sum(self.ranked[i][gone : gone + units])) * (self.whole[i] / width) ** 2

    def remove(self, i: int, units: int) -> float:
        """Take `units` units of coupling i away (put them back if negative): what they are worth."""
        width = max(self.kept[i], self.kept[i] - units)
        self.total -= self.structure.remove(i, units)
        self.kept[i] -= units
        return math.copysign(self.value(i, width, abs(units)), units)

    def cut(self, most: int, but: int | None = None) -> float:
        """Remove the unit that is worth least for what it costs until the network fits or every layer is at its
        floor: at once as many, up to `most`, as leave a multiple of that, and none of coupling `but`. Returns what they
        were worth.

        Of several limits, the one that is furthest from holding sets the prices: one that holds anyway costs nothing.
        """
        lost, tight = 0.0, self.limits.tightest(self.total)

        def step(i: int) -> int:
            return self.kept[i] % most or most

        def price(i: int) -> float:
            units = step(i)
            if i == but or self.kept[i] - units < self.floors[i]:
                return float("inf")
            return self.value(i, self.kept[i], units) / max(
                tight.usage(self.structure.saving(i, units)), 1e-12
            )

        prices = [price(i) for i in range(len(self.kept))]
        while not self.limits.fits(self.total) and min(prices) < float("inf"):
            i = min(range(len(prices)), key=prices.__getitem__)
            lost += self.remove(i, step(i))
            before, tight = tight, self.limits.tightest(self.total)
            for j in self.neighbours[i] if tight == before else range(len(prices)):
                prices[j] = price(j)
        return lost

    def fill(self, units: int, but: int | None = None) -> float:
        """Give back what fits, `units` units at a time and the most worthy for what they cost first, but none to
        coupling `but`. Returns what they are worth."""
        gained = 0.0
        while True:
            fitting, tight = [], self.limits.tightest(self.total)
            for i, (size, keep) in enumerate(zip(self.sizes, self.kept, strict=True)):
                if i != but and keep + units <= size and keep % units == 0:
                    more = self.structure.saving(
                        i, -units
                    )  # negative: putting back saves less than nothing
                    if self.limits.fits(self.total - more):
                        fitting.append(
                            (self.value(i, keep + units, units) / max(-tight.usage(more), 1e-12), i)
                        )
            if not fitting:
                return gained
            _, i = max(fitting)
            gained -= self.remove(i, -units)

    def exchange(self) -> None:
        """Where single units are too coarse to fill the room that is left, exchange some until others fit better.

        One coupling gets a unit more or less, and the others are cut and filled around it; from there another one, and
        so on, always from those widths next that have lost least worth. The first that land are taken; if none do,
        nothing changes.
        """
        first = tuple(self.kept)
        waiting, seen = [(0.0, first)], {first}
        while waiting:
            lost, start = heapq.heappop(waiting)
            self._go(start)
            if self.limits.usage(self.total) >= LANDED:
                self.fill(1)
                return
            for i, units in itertools.product(range(len(start)), (1, -1)):
                if self.floors[i] <= start[i] - units <= self.sizes[i] and len(seen) < CHOICES:
                    self._go(start)
                    less = lost + self.remove(i, units) + self.cut(1, but=i) - self.fill(1, but=i)
                    if (found := tuple(self.kept)) not in seen and self.limits.fits(self.total):
                        seen.add(found)
                        heapq.heappush(waiting, (less, found))
        self._go(first)

    def _go(self, kept: tuple[int, ...]) -> None:
        """Let each coupling keep as many units as that."""
        for i, keep in enumerate(kept):
            if self.kept[i] != keep:
                self.remove(i, self.kept[i] - keep)
