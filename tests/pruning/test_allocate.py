"""Pruning lands on the budget by torchinfo's count, or says why it cannot."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from networks import KINDS, between, check, made_of, network, torchinfos
from torch import nn

from compress.models.cost import measure_cost
from compress.pruning.allocate import LANDED, widths
from compress.pruning.importance import worths
from compress.pruning.pruner import FLOOR, narrowest, prune
from compress.pruning.structure import Structure
from compress.recipe.budget import Axis, Limits
from compress.runtime.errors import UserError

FAST = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
AXES: st.SearchStrategy[Axis] = st.sampled_from(("params", "macs", "bytes"))


@settings(FAST, max_examples=10)
@given(
    digits=st.floats(3.7, 7),
    seed=st.integers(0, 99),
    name=st.sampled_from(["magnitude", "taylor", "random"]),
    round_to=st.sampled_from([1, 8]),
)
def test_resnet18_lands_on_any_budget(digits: float, seed: int, name: str, round_to: int) -> None:
    torch.manual_seed(seed)
    images, budget = torch.randn(2, 3, 28, 28), int(10**digits)
    losses = [lambda model: model(images).logsumexp(1).mean()]
    pruned = check(
        network("resnet18", "small"), 28, budget, importance=name, losses=losses, round_to=multiple
    )
    assert sum(p.numel() for p in pruned.parameters()) >= 0.99 * budget or budget < 10_000


def test_five_thousand_parameters_still_let_something_through_every_layer() -> None:
    pruned = check(network("resnet18", "small"), 28, 5_000)
    widths = [module.out_channels for module in pruned.modules() if isinstance(module, nn.Conv2d)]
    assert min(widths) >= FLOOR and len(widths) == 20


@settings(FAST, max_examples=40)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    width=st.sampled_from([32, 40, 64]),
    flat=st.booleans(),
    where=st.floats(0, 1),
    axis=AXES,
)
@example(kinds=["slope", "concat"], width=32, flat=False, where=0.0, axis="params")
def test_networks_of_any_blocks_land_on_the_budget(
    kinds: list[str], width: int, flat: bool, where: float, axis: Axis
) -> None:
    model = made_of(kinds, width, flat)
    check(model, 12, between(model, 12, where, axis), axis)


def test_a_narrow_network_lands_on_every_budget_by_exchanging_channels() -> None:
    """One channel of it is more than a per cent of most of these budgets."""
    model = prune(network("resnet18", "small"), torch.zeros(1, 3, 28, 28), 10_000)
    structure = Structure(copy.deepcopy(model), torch.zeros(1, 3, 28, 28))
    worth = worths("magnitude", structure.model, structure)
    sizes = structure.sizes()
    floors = [FLOOR] * len(sizes)
    for params in range(5_000, 9_000, 100):
        for multiple in (1, 8):
            limits = Limits(params)
            kept = widths(structure, worth, limits, floors, sizes, multiple)
            assert LANDED <= limits.usage(structure.size(kept)) <= 1
            assert all(
                floor <= keep <= size for floor, keep, size in zip(floors, kept, sizes, strict=True)
            )
    check(model, 28, 7_777)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet"])
def test_limits_on_parameters_and_multiply_adds_hold_alone_and_together(name: str) -> None:
    model, example = network(name), torch.zeros(1, 3, 32, 32)
    params, macs = torchinfos(model, 32)
    for p, m in ((None, 3), (3, 2), (2, 9), (3, 1)):
        limits = {"params": p and params // p, "macs": m and macs // m}
        pruned = prune(model, example, **limits)
        found = dict(zip(("params", "macs"), torchinfos(pruned, 32), strict=True))
        used = [found[key] / limit for key, limit in limits.items() if limit is not None]
        assert 0.99 <= max(used) <= 1


@settings(FAST, max_examples=20)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=3),
    width=st.sampled_from([32, 40]),
    flat=st.booleans(),
    where=st.floats(0.2, 1),
    axes=st.permutations(("params", "macs", "bytes")),
    slack=st.floats(1, 3),
)
def test_a_budget_that_holds_anyway_takes_next_to_nothing_from_a_network(
    kinds: list[str], width: int, flat: bool, where: float, axes: list[Axis], slack: float
) -> None:
    model, example = made_of(kinds, width, flat), torch.zeros(1, 3, 12, 12)
    one, two = axes[:2]
    limits: dict[str, Any] = {one: between(model, 12, where, one)}
    alone = measure_cost(prune(model, example, **limits), (3, 12, 12))
    limits[two] = int(slack * getattr(alone, two))
    both = measure_cost(prune(model, example, **limits), (3, 12, 12))
    assert Limits(**limits).fits(both)
    assert min(both.params / alone.params, both.macs / alone.macs) >= 0.9


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize(("binding", "slack"), [("macs", "params"), ("params", "macs")])
def test_a_budget_that_holds_with_room_to_spare_changes_nothing(
    name: str, binding: Axis, slack: Axis
) -> None:
    """Here what is dear in the one is cheap in the other: strides make channels of deep layers few multiply-adds."""
    model, example = network(name), torch.zeros(1, 3, 32, 32)
    budget = between(model, 32, 0.6, binding)
    alone = prune(model, example, **{binding: budget})
    room = int(1.2 * getattr(measure_cost(alone, (3, 32, 32)), slack))
    both = prune(model, example, **{binding: budget, slack: room})
    assert all(
        torch.equal(a, b) for a, b in zip(alone.parameters(), both.parameters(), strict=True)
    )


def test_a_budget_may_be_text_as_in_a_recipe() -> None:
    model, example = made_of(["residual"], 32, False), torch.zeros(1, 3, 12, 12)
    params, macs = torchinfos(model, 12)
    for text, number in (("2k", 2000), ("2_000", 2000), ("50%", params // 2)):
        assert torchinfos(prune(model, example, text), 12) == torchinfos(
            prune(model, example, number), 12
        )
    assert torchinfos(prune(model, example, macs="50%"), 12)[1] <= macs // 2
    assert (
        sum(t.nbytes for t in prune(model, example, bytes="10KB").state_dict().values()) <= 10_000
    )
    for text, words in (
        ("100q", "'100q' is not understood: write 100k"),
        ("0.001%", "out of reach"),
        ("0", "1 or more"),
    ):
        with pytest.raises(UserError, match=words):
            prune(model, example, text)


@pytest.mark.parametrize("name", ["resnet18", "densenet", "shufflenet_v2_x0_5"])
def test_a_limit_on_bytes_holds(name: str) -> None:
    model, example = network(name), torch.zeros(1, 3, 32, 32)
    limit = sum(t.nbytes for t in model.state_dict().values()) * 2 // 3
    found = sum(t.nbytes for t in prune(model, example, bytes=limit).state_dict().values())
    assert 0.99 * limit <= found <= limit
    both = prune(model, example, torchinfos(model, 32)[0] // 2, bytes=limit)
    assert torchinfos(both, 32)[0] <= torchinfos(model, 32)[0] // 2


def test_what_single_channels_are_too_coarse_for_is_said_with_the_smallest_step() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 8), nn.Flatten(), nn.Linear(16 * 25, 7)).eval()
    said: list[str] = []
    step = 3 * 64 + 1 + 25 * 7
    pruned = prune(model, torch.zeros(1, 3, 12, 12), 10 * step + 7 + step // 2, note=said.append)
    assert sum(p.numel() for p in pruned.parameters()) == 10 * step + 7
    assert len(said) == 1 and said[0].endswith(f"the smallest step left is {step:,} parameters")


@pytest.mark.parametrize("budget", [1, 1000, -5, 0])
def test_a_budget_below_the_floor_is_refused_with_the_least_that_there_is(budget: int) -> None:
    model, example = network("resnet18", "small"), torch.zeros(1, 3, 28, 28)
    with pytest.raises(UserError, match="out of reach") as caught:
        prune(model, example, budget)
    if budget > 0:
        lowest = narrowest(model, example)[1].params
        assert f"{lowest:,} parameters" in str(caught.value)
        check(model, 28, lowest)
        with pytest.raises(UserError, match="out of reach"):
            prune(model, example, lowest - 1)


def test_a_budget_that_the_model_meets_already_is_refused() -> None:
    model, example = network("resnet18", "small"), torch.zeros(1, 3, 28, 28)
    whole = torchinfos(model, 28)[0]
    with pytest.raises(
        UserError, match=re.escape(f"nothing to prune: the budget is {whole:,} parameters")
    ):
        prune(model, example, whole)
    with pytest.raises(UserError, match="a budget is due"):
        prune(model, example)
    check(model, 28, whole - 1)
