"""Resolution of budgets, as users write them, to limits in numbers."""

from __future__ import annotations

from collections.abc import Mapping

from compress.recipe.budget import Amount, Axis, Cost, Limits, parse_amount
from compress.runtime.errors import UserError


def parse_limits(amounts: Mapping[Axis, int | str | Amount | None], full: Cost) -> Limits:
    """Parse budgets given as numbers, or as text in the form of a recipe; None is no limit.

    Args:
        full: the cost of which percentages are taken.

    Raises:
        UserError: no budget is given, or one is not understood.

    Example:
        >>> parse_limits({"params": "5%", "macs": 10**6}, Cost(2_000_000, 9_000_000, 8_000_000))
        Limits(params=100000, macs=1000000, bytes=None, latency=None)
    """
    budgets = {
        axis: amount if isinstance(amount, Amount) else _to_amount(amount, axis)
        for axis, amount in amounts.items()
        if amount is not None
    }
    if not budgets:
        raise UserError("no budget given; pass params, macs, bytes, latency or speedup")
    return resolve_limits(budgets, full)


def _to_amount(amount: int | str, axis: Axis) -> Amount:
    return parse_amount(amount, axis) if isinstance(amount, str) else Amount(str(amount), amount)


def resolve_limits(budgets: Mapping[Axis, Amount], full: Cost) -> Limits:
    """Resolve `budgets` to numbers, percentages of the cost `full`."""
    return Limits(**{axis: amount.resolve(getattr(full, axis)) for axis, amount in budgets.items()})


def require_params_only(limits: Limits) -> int:
    """Return the limit in parameters, the only one that pruning single weights can meet.

    Raises:
        UserError: there is another limit, or none in parameters.
    """
    if limits.params is None or len(limits.as_dict()) > 1:
        raise UserError(
            "mode 'weights' keeps the shape of the network: give its budget in parameters only"
        )
    return limits.params
