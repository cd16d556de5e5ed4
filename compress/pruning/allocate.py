"""Allocation of a budget: the number of units that each channel group keeps.

Units with the lowest score per cost are removed until the network fits. The room that is left is
then filled up.
"""

from __future__ import annotations

import heapq
import itertools
import math

from torch import Tensor, nn

from compress.models.plain_module import describe_computed_weights
from compress.pruning.groups import ChannelGroup
from compress.pruning.structure import Structure
from compress.recipe.budget import Cost, Limits
from compress.runtime.errors import UserError

# Every group keeps at least as many units: with fewer, next to nothing gets through a layer. If the
# budget cannot be met otherwise, it is as many channels where a unit is one of each part of a group
# normalization or a grouped convolution.
MIN_UNITS = 4
# Every group keeps as many units if floors of that height take no more than half of the budget.
COMFORTABLE_UNITS = 8
# The search ends at an allocation that uses this fraction of the budget.
TARGET_USAGE = 0.99
# The search gives up after as many allocations.
MAX_ALLOCATIONS = 1000


def allocate(
    structure: Structure,
    scores: list[Tensor],
    limits: Limits,
    floors: list[int],
    original_units: list[int],
    round_to: int,
) -> list[int]:
    """Return the number of units that each group keeps so that the network fits `limits`.

    Units are removed and restored `round_to` at a time as far as that goes, then one at a time. If
    the result uses less than `TARGET_USAGE` of the budget, single units are exchanged between
    groups. Where time is what runs out, widths stay multiples of `round_to`: a single channel more
    or less makes a network slower, and would use up the budget for nothing.

    Args:
        scores: importance of each unit of each group, (units,).
        floors: units that each group keeps in any case.
        original_units: units that each group had before any pruning.
        round_to: widths stay multiples of this where the budget can be met so.

    Returns:
        Units to keep, one number for each group. They do not fit if even `floors` does not.
    """
    allocation = Allocation(structure, scores, limits, floors, original_units)
    steps = (round_to, 1) if round_to > 1 else (1,)
    for step in steps:
        allocation.shrink(step)
    for step in steps:
        if step == 1 and limits.tightest(allocation.total).latency is not None:
            break
        allocation.fill(step)
    else:
        allocation.exchange()
    structure.reset()
    return allocation.kept


def get_floors(structure: Structure, units: int) -> list[int]:
    """Return `units` for each group, or all of its units where it has fewer."""
    return [min(count, units) for count in structure.unit_counts()]


def get_lowest_floors(structure: Structure) -> list[int]:
    """Return `MIN_UNITS` for each group, or all of its units where it has fewer.

    Where layers divide their channels, it is as many units as have that many channels.
    """
    widths = [group.units.shape[1] if _is_divided(group) else 1 for group in structure.groups]
    return [
        min(len(group), math.ceil(MIN_UNITS / width))
        for group, width in zip(structure.groups, widths, strict=True)
    ]


def _is_divided(group: ChannelGroup) -> bool:
    """Return True if a group has a group normalization or a grouped convolution."""
    layers = [dep.target.module for dep, _ in group.tp_group]
    if any(isinstance(each, nn.MultiheadAttention) for each in layers):
        return False
    return any(
        isinstance(each, nn.GroupNorm) or (isinstance(each, nn.Conv2d) and each.groups > 1)
        for each in layers
    )


def choose_floors(structure: Structure, limits: Limits) -> list[int]:
    """Return the number of units that each group keeps in any case.

    It is the same for all groups: the largest up to `COMFORTABLE_UNITS` with which the floors alone
    use at most half of the budget, and at least `MIN_UNITS`. Where these do not fit, floors are
    those of `get_lowest_floors`.

    Raises:
        UserError: not even the lowest floors fit.
    """
    for units in range(COMFORTABLE_UNITS, MIN_UNITS, -1):
        floors = get_floors(structure, units)
        if limits.usage(structure.predict_cost(floors)) <= 0.5:
            return floors
    for floors in (get_floors(structure, MIN_UNITS), get_lowest_floors(structure)):
        lowest = structure.predict_cost(floors)
        if limits.fits(lowest):
            return floors
    uncut = structure.uncut_layers
    others = f" and {len(uncut) - 3} more" if len(uncut) > 3 else ""
    named = f", as {', '.join(uncut[:3])}{others} cannot be cut" if uncut else ""
    remedy = describe_computed_weights(structure.model)
    raise UserError(
        f"a budget of {limits} is out of reach; the minimum for this network is"
        f" {limits.describe(lowest)}{named}{f'; {remedy}' if remedy else ''}"
    )


def find_smallest_step(structure: Structure, kept: list[int], limits: Limits) -> Cost | None:
    """Return the cost of the cheapest unit that can be restored; None if none was removed."""
    unit_counts = structure.unit_counts()
    for i, (units, keep) in enumerate(zip(unit_counts, kept, strict=True)):
        structure.remove_units(i, units - keep)
    steps = [
        Cost(0, 0, 0) - structure.predict_saving(i, -1)
        for i, (units, keep) in enumerate(zip(unit_counts, kept, strict=True))
        if keep < units
    ]
    structure.reset()
    return min(steps, key=limits.usage, default=None)


class Allocation:
    """The state of a search over widths.

    Attributes:
        kept: units that each group keeps; all of them at first.
        total: predicted cost of the whole network at those widths.
    """

    def __init__(
        self,
        structure: Structure,
        scores: list[Tensor],
        limits: Limits,
        floors: list[int],
        original_units: list[int],
    ) -> None:
        self.structure, self.limits, self.floors = structure, limits, floors
        self.original_units = original_units
        self.unit_counts, self.neighbours = structure.unit_counts(), structure.find_neighbours()
        # Units are removed in ascending order of their scores.
        self.ranked = [score.sort().values.tolist() for score in scores]
        self.kept = list(self.unit_counts)
        self.total = structure.predict_cost(self.unit_counts)

    def score(self, i: int, width: int, units: int) -> float:
        """Return the score of the `units` lowest-ranked units of group i at `width` units.

        This is their own score times the square of how far the group has been narrowed: the few
        channels that are left carry what all of them carried before. The square is the smallest
        power that keeps groups in balance. Parameters are products of two groups' widths; with less
        than that, one of the two is starved to feed the other.
        """
        removed = self.unit_counts[i] - width
        own = sum(self.ranked[i][removed : removed + units])
        return float(own) * (self.original_units[i] / width) ** 2

    def remove(self, i: int, units: int) -> float:
        """Remove `units` units of group i, or restore them if negative.

        Returns:
            Their score, negative if they are restored.
        """
        width = max(self.kept[i], self.kept[i] - units)
        self.total -= self.structure.remove_units(i, units)
        self.kept[i] -= units
        return math.copysign(self.score(i, width, abs(units)), units)

    def shrink(self, step: int, excluded: int | None = None) -> float:
        """Remove the units with the lowest score per cost until the network fits.

        It stops short if every group is at its floor. Of several limits, the one that is exceeded
        most defines the cost: a limit that holds anyway costs nothing.

        Args:
            step: a group loses units down to the next multiple of this at once.
            excluded: a group that loses none.

        Returns:
            The score of all units removed.
        """
        lost, tightest = 0.0, self.limits.tightest(self.total)

        def step_of(i: int) -> int:
            return self.kept[i] % step or step

        def score_per_cost(i: int) -> float:
            units = step_of(i)
            if i == excluded or self.kept[i] - units < self.floors[i]:
                return float("inf")
            saving = tightest.usage(self.structure.predict_saving(i, units))
            return self.score(i, self.kept[i], units) / max(saving, 1e-12)

        candidates = [score_per_cost(i) for i in range(len(self.kept))]
        while not self.limits.fits(self.total) and min(candidates) < float("inf"):
            i = min(range(len(candidates)), key=candidates.__getitem__)
            lost += self.remove(i, step_of(i))
            # Only the groups that share a layer with group i have new savings, unless another limit
            # is the tightest now.
            before, tightest = tightest, self.limits.tightest(self.total)
            for j in self.neighbours[i] if tightest == before else range(len(candidates)):
                candidates[j] = score_per_cost(j)
        return lost

    def fill(self, step: int, excluded: int | None = None) -> float:
        """Restore the units with the highest score per cost while the network fits.

        Args:
            step: a group that has a multiple of this gets as many units at once.
            excluded: a group that gets none.

        Returns:
            The score of all units restored.
        """
        gained = 0.0
        while True:
            fitting, tightest = [], self.limits.tightest(self.total)
            for i, (units, keep) in enumerate(zip(self.unit_counts, self.kept, strict=True)):
                if i == excluded or keep + step > units or keep % step:
                    continue
                # Negative: restoring units saves less than nothing.
                saving = self.structure.predict_saving(i, -step)
                if self.limits.fits(self.total - saving):
                    cost = max(-tightest.usage(saving), 1e-12)
                    fitting.append((self.score(i, keep + step, step) / cost, i))
            if not fitting:
                return gained
            _, i = max(fitting)
            gained -= self.remove(i, -step)

    def exchange(self) -> None:
        """Exchange units between groups if single units are too coarse to fill what is left.

        A best-first search: one group gets or loses a unit, the others are shrunk and filled around
        it, and the allocation that has lost the least score is expanded next. The first one that
        reaches `TARGET_USAGE` is taken; if none does, nothing changes.
        """
        first = tuple(self.kept)
        queue, seen = [(0.0, first)], {first}
        while queue:
            lost, start = heapq.heappop(queue)
            self._move_to(start)
            if self.limits.usage(self.total) >= TARGET_USAGE:
                self.fill(1)
                return
            for i, units in itertools.product(range(len(start)), (1, -1)):
                allowed = self.floors[i] <= start[i] - units <= self.unit_counts[i]
                if not allowed or len(seen) >= MAX_ALLOCATIONS:
                    continue
                self._move_to(start)
                loss = lost + self.remove(i, units) + self.shrink(1, i) - self.fill(1, i)
                found = tuple(self.kept)
                if found not in seen and self.limits.fits(self.total):
                    seen.add(found)
                    heapq.heappush(queue, (loss, found))
        self._move_to(first)

    def _move_to(self, kept: tuple[int, ...]) -> None:
        for i, keep in enumerate(kept):
            if self.kept[i] != keep:
                self.remove(i, self.kept[i] - keep)
