"""Budgets resolve to limits in numbers."""

from __future__ import annotations

import pytest

from compress.pruning.limits import parse_limits, require_params_only, resolve_limits
from compress.recipe.budget import Cost, Limits, parse_amount
from compress.runtime.errors import UserError

FULL = Cost(params=2_000_000, macs=9_000_000, bytes=8_000_000)


def test_numbers_text_and_percentages_become_numbers() -> None:
    limits = parse_limits({"params": 123, "macs": "25%", "bytes": "1.5MB"}, FULL)
    assert limits == Limits(params=123, macs=2_250_000, bytes=1_500_000)
    assert parse_limits({"params": None, "macs": "1M", "bytes": None}, FULL) == Limits(
        macs=1_000_000
    )


def test_a_budget_that_is_missing_or_not_understood_is_refused() -> None:
    with pytest.raises(UserError, match="no budget"):
        parse_limits({"params": None, "macs": None, "bytes": None}, FULL)
    with pytest.raises(UserError, match="'1x'"):
        parse_limits({"params": "1x"}, FULL)


def test_percentages_are_those_of_the_same_cost() -> None:
    budgets = {axis: parse_amount("10%", axis) for axis in ("params", "macs", "bytes")}
    assert resolve_limits(budgets, FULL) == Limits(200_000, 900_000, 800_000)


@pytest.mark.parametrize(
    "limits", [Limits(macs=5), Limits(bytes=5), Limits(5, macs=5), Limits(5, bytes=5)]
)
def test_single_weights_are_pruned_to_parameters_only(limits: Limits) -> None:
    assert require_params_only(Limits(params=5)) == 5
    with pytest.raises(UserError, match=r"'weights'.*parameters only"):
        require_params_only(limits)
