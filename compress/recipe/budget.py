"""A budget: what a network has to fit into. Free of torch, so that a typo is answered at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Literal

from compress.runtime.errors import UserError

Axis = Literal["params", "macs", "bytes"]

# how each is called, its units, and how a person may write it
_AXES: dict[Axis, tuple[str, dict[str, int], str]] = {
    "params": ("parameters", {"": 1, "k": 10**3, "m": 10**6}, "100k, 0.1M, 100_000 or 5%"),
    "macs": ("multiply-adds", {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}, "5M, 0.5G, 5_000_000 or 5%"),
    "bytes": (
        "bytes",
        {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20},
        "400KB, 0.4MB, 400KiB, 400_000 or 5%",
    ),
}


KEYS: dict[str, Axis] = {"budget": "params", "macs": "macs", "file_size": "bytes"}  # a recipe's, and a command's


@dataclass(frozen=True)
class Count:
    """What a network costs: `params` (weights and biases), `macs` (multiply-adds for one image), and the `bytes` of
    its tensors."""

    params: int
    macs: int
    bytes: int

    def __add__(self, other: Count) -> Count:
        return Count(self.params + other.params, self.macs + other.macs, self.bytes + other.bytes)

    def __sub__(self, other: Count) -> Count:
        return Count(self.params - other.params, self.macs - other.macs, self.bytes - other.bytes)


@dataclass(frozen=True)
class Limits:
    """The most that a network may cost, in one of the ways to count it or in several at once."""

    params: int | None = None
    macs: int | None = None
    bytes: int | None = None

    def hold(self, size: Count) -> bool:
        """Whether a network of this size fits."""
        return self.use(size) <= 1

    def use(self, size: Count) -> float:
        """The largest share of a limit that `size` takes up."""
        return max(self.shares(size).values(), default=0.0)

    def tightest(self, size: Count) -> Limits:
        """The one limit of these that `size` takes up most of."""
        shares = self.shares(size)
        axis = max(shares, key=shares.__getitem__)
        return Limits(**{axis: self.given()[axis]})

    def shares(self, size: Count) -> dict[Axis, float]:
        """The share of each limit that `size` takes up."""
        return {axis: getattr(size, axis) / limit for axis, limit in self.given().items()}

    def given(self) -> dict[Axis, int]:
        """The limits that there are."""
        pairs = ((axis, getattr(self, axis)) for axis in _AXES)
        return {axis: limit for axis, limit in pairs if limit is not None}

    def towards(self, whole: Count, part: float) -> Limits:
        """Limits on the way from the size `whole` to these: evenly in ratio, so that each step costs alike."""
        start = {axis: getattr(whole, axis) for axis in self.given()}
        return Limits(**{a: round(start[a] * min(1.0, limit / start[a]) ** part) for a, limit in self.given().items()})

    def tell(self, size: Count) -> str:
        """`size` in the limits' own terms, as "11,173,962 parameters"."""
        return " and ".join(tell(size, axis) for axis in self.given())

    def __str__(self) -> str:
        return " and ".join(f"{limit:,} {_AXES[axis][0]}" for axis, limit in self.given().items())


@dataclass(frozen=True)
class Amount:
    """One number of a budget, as a person wrote it: so many, or a share of what the student has."""

    text: str
    number: int | None = None
    share: Fraction | None = None

    def of(self, student: int) -> int:
        """The number, for a student that has `student`; 1 or more, however small the share."""
        return self.number if self.number is not None else max(int((self.share or 0) * student), 1)


def parse(text: str, axis: Axis = "params") -> Amount:
    """Read ``100k``, ``0.1M``, ``100_000``, ``100000`` or ``5%`` (of the student's); bytes as ``400KB`` or ``400KiB``.

    Raises:
        UserError: it is none of these, or not above zero (or not below 100 %).
    """
    name, units, examples = _AXES[axis]
    match = re.fullmatch(r"\s*(\d+(?:[_,]\d{3})*|\d*\.\d+|\d+\.)\s*([a-z]*|%)\s*", text.lower(), re.ASCII)
    if not match or len(text) > 40 or match[2] not in (*units, "%"):
        raise UserError(f"budget {text[:40]!r} is not understood: write {examples}")
    amount, unit = Fraction(re.sub("[_,]", "", match[1])), match[2]
    if unit == "%":
        if not 0 < amount < 100:
            raise UserError(f"budget {text!r}: a share lies above 0% and below 100% of the student")
        return Amount(text, share=amount / 100)
    amount *= units[unit]
    if amount < 1 or amount.denominator != 1:
        raise UserError(f"budget {text!r} must be a whole number of {name}, 1 or more")
    return Amount(text, number=int(amount))


def descending(texts: Sequence[str]) -> list[str]:
    """The budgets of a sweep, numbers of parameters, the largest first.

    Raises:
        UserError: one is not understood, is a share, comes twice, or is met by the network of the one above it, which
            has 99 % of its budget or more.
    """
    numbers = {text.strip(): parse(text).number or 0 for text in texts}
    if len(set(numbers.values())) < len(texts) or 0 in numbers.values():
        raise UserError(f"budgets {','.join(texts)}: numbers of parameters are due, each once")
    ordered = sorted(numbers, key=lambda text: numbers[text], reverse=True)
    for above, text in itertools.pairwise(ordered):
        if numbers[text] > 0.99 * numbers[above]:
            raise UserError(f"budgets {above} and {text}: one network may well be both; leave one out")
    return ordered


def asked(budgets: Mapping[Axis, Amount]) -> str:
    """Budgets as they were written: "100k parameters and 5M multiply-adds and a file of 400KB"."""
    return " and ".join(
        f"a file of {amount.text}" if axis == "bytes" else f"{amount.text} {_AXES[axis][0]}"
        for axis, amount in budgets.items()
    )


def tell(size: Count, axis: Axis) -> str:
    """One number of `size`, as "11,173,962 parameters"."""
    return f"{getattr(size, axis):,} {_AXES[axis][0]}"


def examples(axis: Axis) -> str:
    """How a budget may be written."""
    return _AXES[axis][2]


def amounts(texts: Mapping[str, str | int | None]) -> dict[Axis, Amount]:
    """The budgets among a recipe's keys, or a command's flags: all of them have to hold.

    Raises:
        UserError: one is not understood.
    """
    return {axis: parse(str(texts[key]), axis) for key, axis in KEYS.items() if texts.get(key) is not None}


assert tuple(_AXES) == tuple(field.name for field in fields(Count))
