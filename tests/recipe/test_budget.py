"""Budgets: how they are written, and which networks satisfy them."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from compress.recipe.budget import (
    Axis,
    Cost,
    Limits,
    describe_budgets,
    describe_cost,
    parse_amount,
    parse_budgets,
    parse_descending,
)
from compress.runtime.errors import UserError

COUNTS = st.integers(1, 10**12)
COSTS = st.builds(Cost, COUNTS, COUNTS, COUNTS)
LIMITS = st.builds(Limits, *[st.none() | COUNTS] * 3)


@given(COUNTS)
def test_all_notations_of_a_number_are_equal(params: int) -> None:
    k, m = f"{params // 1000}.{params % 1000:03d}", f"{params // 10**6}.{params % 10**6:06d}"
    plain = (str(params), f"{params:,}", f"{params:_}", f" {params} ")
    for text in (*plain, f"{k}k", f"{k}K", f"{m}M", f"{m} m"):
        assert parse_amount(text).resolve(7) == params


@pytest.mark.parametrize(
    ("axis", "text", "number"),
    [
        ("macs", "5M", 5_000_000),
        ("macs", "0.5G", 500_000_000),
        ("bytes", "400KB", 400_000),
        ("bytes", "400kb", 400_000),
        ("bytes", "0.4MB", 400_000),
        ("bytes", "400KiB", 409_600),
        ("bytes", "2MiB", 2**21),
        ("bytes", "1.5 GB", 1_500_000_000),
        ("bytes", "512B", 512),
        ("bytes", "400_000", 400_000),
    ],
)
def test_units_of_multiply_adds_and_bytes(axis: Axis, text: str, number: int) -> None:
    assert parse_amount(text, axis).number == number


@given(st.integers(1, 9999), st.integers(1, 10**9))
def test_a_percentage_is_an_exact_fraction_of_the_student(hundredths: int, total: int) -> None:
    amount = parse_amount(f"{hundredths / 100}%")
    assert amount.resolve(total) == max(1, hundredths * total // 10_000)


@pytest.mark.parametrize(
    "text",
    ["0", "0k", "0%", "100%", "101%", "-5", "1.5", "0.0001k", "1e5", "1,00", "10_0", "k", "%"],
)
@pytest.mark.parametrize("wrap", ["{}", " {}", "{} "])
def test_an_impossible_budget_is_refused(text: str, wrap: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_amount(wrap.format(text))
    assert f"budget {wrap.format(text)!r}" in str(refused.value)


@pytest.mark.parametrize(("axis", "text"), [("params", "1G"), ("params", "5KB"), ("macs", "5KB")])
def test_a_unit_of_another_axis_is_refused_with_examples(axis: Axis, text: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_amount(text, axis)
    assert repr(text) in str(refused.value) and "5%" in str(refused.value)


@given(st.text(max_size=60))
@example("9" * 5000)
@example("٣k")
@example("1.k")
@example(".5M")
def test_any_text_is_a_budget_or_refused_in_one_line(text: str) -> None:
    try:
        amount = parse_amount(text)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 600
    else:
        assert (amount.number or 0) >= 1 or 0 < (amount.fraction or 0) < 1


def test_budgets_are_parsed_by_their_keys() -> None:
    texts = {"budget": "100k", "macs": None, "file_size": "50%", "data": "mnist"}
    budgets = parse_budgets(texts)
    assert list(budgets) == ["params", "bytes"]
    assert budgets["params"].number == 100_000 and budgets["bytes"].fraction == Fraction(1, 2)
    assert describe_budgets(budgets) == "100k parameters and a file of 50%"


def test_a_number_in_a_recipe_is_a_budget_too() -> None:
    assert parse_budgets({"budget": 3000})["params"].resolve(7) == 3000


@given(st.sets(st.integers(0, 60), min_size=1), st.randoms())
def test_budgets_of_a_sweep_are_sorted(exponents: set[int], random: object) -> None:
    texts = [str(100 * 11**e // 10**e) for e in sorted(exponents)]
    shuffled = list(texts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert parse_descending(shuffled) == texts[::-1]


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["100k", "5%"], "5%"),
        (["100k", "0.1M"], "100k,0.1M"),
        (["100k", "many"], "many"),
        (["1M", "100k", "99.5k"], "100k and 99.5k"),
    ],
)
def test_budgets_that_make_no_sweep_are_refused(texts: list[str], named: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_descending(texts)
    assert named in str(refused.value)


def test_budgets_just_far_enough_apart_are_accepted() -> None:
    assert parse_descending(["99k", "100k"]) == ["100k", "99k"]


@given(COSTS, COSTS)
def test_costs_add_and_subtract(one: Cost, other: Cost) -> None:
    assert one + other - other == one
    assert (one + other).macs == one.macs + other.macs


@given(LIMITS, COSTS)
def test_a_network_fits_if_it_exceeds_no_limit(limits: Limits, cost: Cost) -> None:
    exceeded = [axis for axis, limit in limits.as_dict().items() if getattr(cost, axis) > limit]
    assert limits.fits(cost) == (not exceeded)
    assert (limits.usage(cost) > 1) == bool(exceeded)


def test_without_limits_every_network_fits() -> None:
    huge = Cost(10**15, 10**15, 10**15)
    assert Limits().fits(huge) and Limits().usage(huge) == 0


def test_the_tightest_limit_is_the_one_that_is_used_most() -> None:
    limits, cost = Limits(params=100, macs=1000), Cost(params=50, macs=900, bytes=10**9)
    assert limits.usages(cost) == {"params": 0.5, "macs": 0.9}
    assert limits.usage(cost) == 0.9 and limits.tightest(cost) == Limits(macs=1000)


@given(LIMITS, COSTS)
def test_interpolation_leads_from_the_network_to_the_limits(limits: Limits, start: Cost) -> None:
    for axis, limit in limits.as_dict().items():
        full = getattr(start, axis)
        assert getattr(limits.interpolate(start, 0), axis) == full
        end = getattr(limits.interpolate(start, 1), axis)
        assert end == pytest.approx(min(limit, full), rel=1e-12, abs=0.5)
    assert limits.interpolate(start, 0.5).as_dict().keys() == limits.as_dict().keys()


@given(st.integers(10**4, 10**9), st.integers(10**7, 10**12), st.integers(2, 8))
def test_rounds_of_pruning_shrink_by_equal_ratios(limit: int, full: int, rounds: int) -> None:
    assume(limit < full)
    start = Cost(full, full, full)
    sizes = [Limits(params=limit).interpolate(start, n / rounds).params for n in range(rounds + 1)]
    ratios = [after / before for before, after in itertools.pairwise(s or 0 for s in sizes)]
    assert max(ratios) == pytest.approx(min(ratios), rel=1e-3)


def test_costs_are_described_along_the_limits_that_are_set() -> None:
    cost = Cost(params=11_173_962, macs=122_050_000, bytes=44_800_000)
    assert describe_cost(cost, "params") == "11,173,962 parameters"
    limits = Limits(params=100_000, macs=5_000_000)
    assert limits.describe(cost) == "11,173,962 parameters and 122,050,000 multiply-adds"
    assert str(limits) == "100,000 parameters and 5,000,000 multiply-adds"
