"""Budgets: limits on a network's parameters, multiply-adds, bytes and time.

Does not import torch.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Literal

from compress.runtime.errors import UserError, quote

Axis = Literal["params", "macs", "bytes", "latency"]


@dataclass(frozen=True)
class _Unit:
    name: str
    suffixes: Mapping[str, int]
    examples: str


_UNITS: dict[Axis, _Unit] = {
    "params": _Unit("parameters", {"": 1, "k": 10**3, "m": 10**6}, "100k, 0.1M, 100_000 or 5%"),
    "macs": _Unit(
        "multiply-adds", {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}, "5M, 0.5G, 5_000_000 or 5%"
    ),
    "bytes": _Unit(
        "bytes",
        {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20},
        "400KB, 0.4MB, 400KiB, 400_000 or 5%",
    ),
    "latency": _Unit(
        "nanoseconds",
        {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9},
        "0.4ms or 400us, with the unit, or 20%",
    ),
}

# Recipe keys and command-line flags that are budgets.
BUDGET_KEYS: dict[str, Axis] = {
    "budget": "params",
    "macs": "macs",
    "file_size": "bytes",
    "latency": "latency",
    "speedup": "latency",
}
SPEEDUP_EXAMPLES = "5x or 2.5x"


@dataclass(frozen=True)
class Cost:
    """The cost of a network.

    Args:
        params: number of weights and biases.
        macs: multiply-adds for one image.
        bytes: size of the tensors.
        latency: predicted nanoseconds for one image; 0 where no budget asks for them.
    """

    params: int
    macs: int
    bytes: int
    latency: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.bytes + other.bytes,
            self.latency + other.latency,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.params - other.params,
            self.macs - other.macs,
            self.bytes - other.bytes,
            self.latency - other.latency,
        )


assert tuple(_UNITS) == tuple(field.name for field in fields(Cost))


@dataclass(frozen=True)
class Limits:
    """Upper limits on a network's cost; None means no limit.

    Example:
        >>> Limits(params=100_000).fits(Cost(params=99_938, macs=13_150_000, bytes=412_000))
        True
    """

    params: int | None = None
    macs: int | None = None
    bytes: int | None = None
    latency: int | None = None

    def fits(self, cost: Cost) -> bool:
        """Return True if `cost` exceeds no limit."""
        return self.usage(cost) <= 1

    def usage(self, cost: Cost) -> float:
        """Return the fraction of the tightest limit that `cost` uses: above 1 is over the limit."""
        return max(self.usages(cost).values(), default=0.0)

    def usages(self, cost: Cost) -> dict[Axis, float]:
        """Return the fraction of each limit that `cost` uses."""
        return {axis: getattr(cost, axis) / limit for axis, limit in self.as_dict().items()}

    def tightest(self, cost: Cost) -> Limits:
        """Return the one limit of which `cost` uses the largest fraction."""
        usages = self.usages(cost)
        axis = max(usages, key=usages.__getitem__)
        return Limits(**{axis: self.as_dict()[axis]})

    def as_dict(self) -> dict[Axis, int]:
        """Return the limits that are set."""
        pairs = ((axis, getattr(self, axis)) for axis in _UNITS)
        return {axis: limit for axis, limit in pairs if limit is not None}

    def interpolate(self, start: Cost, fraction: float) -> Limits:
        """Return limits on the way from the cost `start` to these.

        Equal steps of `fraction`, from 0 to 1, shrink the network by equal ratios.
        """
        full = {axis: getattr(start, axis) for axis in self.as_dict()}
        return Limits(
            **{
                axis: round(full[axis] * min(1.0, limit / full[axis]) ** fraction)
                for axis, limit in self.as_dict().items()
            }
        )

    def describe(self, cost: Cost) -> str:
        """Describe `cost` along the limits that are set, as ``11,173,962 parameters``."""
        return " and ".join(describe_cost(cost, axis) for axis in self.as_dict())

    def __str__(self) -> str:
        return " and ".join(_describe(limit, axis) for axis, limit in self.as_dict().items())


@dataclass(frozen=True)
class Amount:
    """One budget as the user wrote it: a number, or a fraction of the student's cost.

    A latency and a speedup together have both.
    """

    text: str
    number: int | None = None
    fraction: Fraction | None = None

    def resolve(self, total: int) -> int:
        """Return the limit for a student whose cost is `total`; at least 1."""
        part = None if self.fraction is None else max(int(self.fraction * total), 1)
        return min(limit for limit in (self.number, part) if limit is not None)


def parse_amount(text: str, axis: Axis = "params") -> Amount:
    """Parse a budget: ``100k``, ``0.1M``, ``100_000``, or ``5%`` of the student's.

    Multiply-adds may also be written as ``0.5G``, bytes as ``400KB`` or ``400KiB``, and time as
    ``0.4ms`` or ``400us``; the number is in nanoseconds then.

    Raises:
        UserError: the text is none of these, the number is not a whole number above zero, or the
            percentage is not between 0 and 100.

    Example:
        >>> parse_amount("0.1M").number
        100000
    """
    unit = _UNITS[axis]
    # A speedup is parsed by itself.
    named = f"{next(key for key in BUDGET_KEYS if BUDGET_KEYS[key] == axis)} {quote(text)}"
    match = re.fullmatch(
        r"\s*(\d+(?:[_,]\d{3})*|\d*\.\d+|\d+\.)\s*([a-zµμ]*|%)\s*", text.lower(), re.ASCII
    )
    if not match or len(text) > 40 or match[2] not in (*unit.suffixes, "%"):
        raise UserError(f"{named} is not understood: write {unit.examples}")
    amount, suffix = Fraction(re.sub("[_,]", "", match[1])), match[2]
    if suffix == "%":
        if not 0 < amount < 100:
            raise UserError(f"{named}: a percentage must be above 0% and below 100% of the student")
        return Amount(text, fraction=amount / 100)
    amount *= unit.suffixes[suffix]
    if amount < 1 or amount.denominator != 1:
        raise UserError(f"{named} must be a whole number of {unit.name}, 1 or more")
    return Amount(text, number=int(amount))


def parse_speedup(text: str) -> Amount:
    """Parse a speedup over the student: ``5x``, or ``5``; it is a fraction of the student's time.

    Raises:
        UserError: the text is something else, or not above 1.

    Example:
        >>> parse_speedup("5x").fraction
        Fraction(1, 5)
    """
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{0,9})?)\s*[x×]?\s*", text.lower(), re.ASCII)
    if not match:
        raise UserError(f"speedup {quote(text)} is not understood: write {SPEEDUP_EXAMPLES}")
    times = Fraction(match[1])
    if times <= 1:
        raise UserError(f"speedup {quote(text)}: must be above 1, as {SPEEDUP_EXAMPLES}")
    return Amount(f"{match[1]}x", fraction=1 / times)


def parse_budgets(texts: Mapping[str, str | int | None]) -> dict[Axis, Amount]:
    """Parse the budgets among a recipe's keys or a command's flags.

    Raises:
        UserError: one is not understood.
    """
    found: dict[Axis, Amount] = {}
    for key, axis in BUDGET_KEYS.items():
        if texts.get(key) is None:
            continue
        text = str(texts[key])
        amount = parse_speedup(text) if key == "speedup" else parse_amount(text, axis)
        found[axis] = _combine(found[axis], amount) if axis in found else amount
    return found


def _combine(latency: Amount, speedup: Amount) -> Amount:
    """Return a latency and a speedup as one budget, which keeps both."""
    fractions = [each.fraction for each in (latency, speedup) if each.fraction is not None]
    return Amount(f"{latency.text} and {speedup.text}", latency.number, min(fractions))


def parse_descending(texts: Sequence[str]) -> list[str]:
    """Check the budgets of a sweep, in parameters, and return them with the largest first.

    Raises:
        UserError: one is not understood, is a percentage, comes twice, or is so close to the next
            that one network would satisfy both (a result uses at least 99 % of its budget).
    """
    numbers = {text.strip(): parse_amount(text).number or 0 for text in texts}
    if len(set(numbers.values())) < len(texts) or 0 in numbers.values():
        raise UserError(f"budgets {','.join(texts)}: write numbers of parameters, each once")
    ordered = sorted(numbers, key=lambda text: numbers[text], reverse=True)
    for above, text in itertools.pairwise(ordered):
        if numbers[text] > 0.99 * numbers[above]:
            raise UserError(
                f"budgets {above} and {text}: too close, one network would satisfy both; drop one"
            )
    return ordered


def describe_budgets(budgets: Mapping[Axis, Amount]) -> str:
    """Describe budgets as the user wrote them: ``100k parameters and a file of 400KB``."""
    return " and ".join(
        _describe_time(amount.text)
        if axis == "latency"
        else f"a file of {amount.text}"
        if axis == "bytes"
        else f"{amount.text} {_UNITS[axis].name}"
        for axis, amount in budgets.items()
    )


def _describe_time(text: str) -> str:
    return " and ".join(
        f"a speedup of {part}" if part.endswith("x") else f"a latency of {part}"
        for part in text.split(" and ")
    )


def describe_cost(cost: Cost, axis: Axis) -> str:
    """Describe the cost along one axis, as ``11,173,962 parameters``."""
    return _describe(getattr(cost, axis), axis)


def _describe(number: int, axis: Axis) -> str:
    return f"{number / 1e6:.4g} ms" if axis == "latency" else f"{number:,} {_UNITS[axis].name}"


def budget_examples(key: str) -> str:
    """Return examples of the budget of a recipe's key, for messages."""
    return SPEEDUP_EXAMPLES if key == "speedup" else _UNITS[BUDGET_KEYS[key]].examples
