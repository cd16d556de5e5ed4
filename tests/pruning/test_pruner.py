"""`prune` lands on the budget by torchinfo's count, or says why it cannot."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pruning_networks import (
    BLOCK_KINDS,
    build_from_blocks,
    build_network,
    choose_budget,
    count_bytes,
    count_independently,
    count_params,
    list_out_channels,
    prune_and_check,
)
from torch import nn

from compress.models.cost import measure_cost
from compress.pruning.allocate import MIN_UNITS
from compress.pruning.pruner import PruneOptions, prune, prune_to_limits, prune_to_minimum
from compress.recipe.budget import Axis, Limits
from compress.recipe.model_spec import Stem
from compress.runtime.errors import UserError

SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
AXES: st.SearchStrategy[Axis] = st.sampled_from(("params", "macs", "bytes"))


@pytest.mark.slow
@settings(SETTINGS, max_examples=6)
@given(
    digits=st.floats(3.7, 7),
    seed=st.integers(0, 99),
    importance=st.sampled_from(["magnitude", "taylor", "random"]),
    round_to=st.sampled_from([1, 8]),
)
def test_resnet18_lands_on_any_budget(
    digits: float, seed: int, importance: str, round_to: int
) -> None:
    torch.manual_seed(seed)
    images, budget = torch.randn(2, 3, 28, 28), int(10**digits)
    losses = [lambda model: model(images).logsumexp(1).mean()]
    model = build_network("resnet18", "small")
    pruned = prune_and_check(
        model, 28, budget, importance=importance, losses=losses, round_to=round_to
    )
    if budget >= 10_000:
        assert count_params(pruned) >= 0.99 * budget


def test_every_layer_keeps_channels_at_the_smallest_budgets() -> None:
    widths = list_out_channels(prune_and_check(build_network("resnet18", "small"), 28, 5_000))
    assert len(widths) == 20
    assert min(widths) >= MIN_UNITS


@pytest.mark.slow
@settings(SETTINGS, max_examples=40)
@given(
    kinds=st.lists(st.sampled_from(BLOCK_KINDS), min_size=1, max_size=4),
    width=st.sampled_from([32, 40, 64]),
    flatten_maps=st.booleans(),
    fraction=st.floats(0, 1),
    axis=AXES,
)
@example(
    kinds=["shared_slope", "concat"], width=32, flatten_maps=False, fraction=0.0, axis="params"
)
def test_networks_of_any_blocks_land_on_the_budget(
    kinds: list[str], width: int, flatten_maps: bool, fraction: float, axis: Axis
) -> None:
    model = build_from_blocks(kinds, width, flatten_maps)
    prune_and_check(model, 12, choose_budget(model, 12, fraction, axis), axis)


def slow(*values: object) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stem", "image_size", "fraction"),
    [
        slow("resnet34", "small", 28, 0.3),
        slow("resnet50", "small", 28, 0.5),
        slow("resnext50_32x4d", "half", 33, 0.4),
        ("small_networks:vgg", "imagenet", 32, 0.1),
        ("small_networks:densenet", "imagenet", 32, 0.5),
        ("mobilenet_v2", "imagenet", 64, 0.0),
        ("mobilenet_v2", "imagenet", 33, 0.7),
        ("mobilenet_v3_large", "imagenet", 32, 0.5),
        ("mnasnet0_5", "imagenet", 48, 0.6),
        ("efficientnet_b0", "imagenet", 40, 0.6),
        ("regnet_y_400mf", "imagenet", 32, 0.5),
        ("regnet_x_400mf", "imagenet", 32, 0.1),
        slow("convnext_tiny", "imagenet", 64, 0.4),
        ("squeezenet1_1", "imagenet", 64, 0.4),
        ("googlenet", "imagenet", 64, 0.5),
        ("small_networks:vit", "imagenet", 32, 0.6),
    ],
)
def test_torchvision_networks_land_on_the_budget(
    name: str, stem: Stem, image_size: int, fraction: float
) -> None:
    model = build_network(name, stem)
    prune_and_check(model, image_size, choose_budget(model, image_size, fraction))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "small_networks:densenet"])
def test_limits_on_parameters_and_multiply_adds_hold_alone_and_together(name: str) -> None:
    model, example = build_network(name), torch.zeros(1, 3, 32, 32)
    params, macs = count_independently(model, 32)
    for limits in (
        Limits(macs=macs // 3),
        Limits(params // 3, macs // 2),
        Limits(params // 2, macs // 9),
        Limits(params // 3, macs),
    ):
        pruned = prune(model, example, limits.params, macs=limits.macs)
        found = dict(zip(("params", "macs"), count_independently(pruned, 32), strict=True))
        usages = [found[axis] / limit for axis, limit in limits.as_dict().items()]
        assert 0.99 <= max(usages) <= 1


@pytest.mark.slow
@settings(SETTINGS, max_examples=20)
@given(
    kinds=st.lists(st.sampled_from(BLOCK_KINDS), min_size=1, max_size=3),
    width=st.sampled_from([32, 40]),
    flatten_maps=st.booleans(),
    fraction=st.floats(0.2, 1),
    axes=st.permutations(("params", "macs", "bytes")),
    slack=st.floats(1, 3),
)
def test_with_a_second_budget_that_holds_anyway_the_tighter_one_is_used_up(
    kinds: list[str],
    width: int,
    flatten_maps: bool,
    fraction: float,
    axes: list[Axis],
    slack: float,
) -> None:
    model, example = build_from_blocks(kinds, width, flatten_maps), torch.zeros(1, 3, 12, 12)
    first, second = axes[:2]
    budgets: dict[str, Any] = {first: choose_budget(model, 12, fraction, first)}
    alone = measure_cost(prune(model, example, **budgets), (3, 12, 12))
    used = Limits(**budgets).usage(alone)
    budgets[second] = int(slack * getattr(alone, second))
    limits = Limits(**budgets)
    both = measure_cost(prune(model, example, **budgets), (3, 12, 12))
    assert limits.fits(both) and limits.usage(both) >= 0.95 * used


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize(("binding", "slack"), [("macs", "params"), ("params", "macs")])
def test_a_second_budget_with_room_to_spare_changes_nothing(
    name: str, binding: Axis, slack: Axis
) -> None:
    """Strides make channels of deep layers cheap in multiply-adds, not in parameters."""
    model, example = build_network(name), torch.zeros(1, 3, 32, 32)
    budget = choose_budget(model, 32, 0.6, binding)
    alone = prune(model, example, **{binding: budget})
    room = int(1.2 * getattr(measure_cost(alone, (3, 32, 32)), slack))
    both = prune(model, example, **{binding: budget, slack: room})
    for a, b in zip(alone.parameters(), both.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "name", ["resnet18", "small_networks:densenet", slow("shufflenet_v2_x0_5")]
)
def test_a_limit_on_bytes_holds(name: str) -> None:
    model, example = build_network(name), torch.zeros(1, 3, 32, 32)
    limit = count_bytes(model) * 2 // 3
    assert 0.99 * limit <= count_bytes(prune(model, example, bytes=limit)) <= limit
    params = count_params(model) // 2
    both = prune(model, example, params, bytes=limit)
    assert count_params(both) <= params
    assert count_bytes(both) <= limit


def test_a_budget_may_be_text_as_in_a_recipe() -> None:
    model, example = build_from_blocks(["residual"]), torch.zeros(1, 3, 12, 12)
    params, macs = count_independently(model, 12)
    for text, number in (("2k", 2000), ("2_000", 2000), ("50%", params // 2)):
        by_text, by_number = prune(model, example, text), prune(model, example, number)
        assert count_independently(by_text, 12) == count_independently(by_number, 12)
    assert count_independently(prune(model, example, macs="50%"), 12)[1] <= macs // 2
    assert count_bytes(prune(model, example, bytes="10KB")) <= 10_000
    for text, words in (("100q", "'100q'.*100k"), ("0.001%", "out of reach"), ("0", "1 or more")):
        with pytest.raises(UserError, match=words):
            prune(model, example, text)


def test_prune_and_prune_to_limits_agree() -> None:
    model, example = build_from_blocks(["residual"]), torch.zeros(1, 3, 12, 12)
    options = PruneOptions(importance="lamp", round_to=8)
    ours = prune_to_limits(model, example, Limits(params=3000, macs=400_000), options)
    public = prune(model, example, 3000, macs=400_000, importance="lamp", round_to=8)
    assert list_out_channels(ours) != list_out_channels(model)
    for a, b in zip(ours.parameters(), public.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_budget_missed_by_one_per_cent_is_logged_with_the_smallest_step() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 8), nn.Flatten(), nn.Linear(16 * 25, 7)).eval()
    lines: list[str] = []
    step = 3 * 64 + 1 + 25 * 7
    pruned = prune(model, torch.zeros(1, 3, 12, 12), 10 * step + 7 + step // 2, log=lines.append)
    assert count_params(pruned) == 10 * step + 7
    assert len(lines) == 1
    assert lines[0].endswith(f"the smallest step left is {step:,} parameters")


@pytest.mark.parametrize("budget", [1, 1000, -5, 0])
def test_a_budget_below_the_minimum_is_refused(budget: int) -> None:
    with pytest.raises(UserError, match="out of reach"):
        prune(build_network("resnet18", "small"), torch.zeros(1, 3, 28, 28), budget)


@pytest.mark.slow
def test_the_minimum_named_in_the_message_is_within_reach() -> None:
    model, example = build_network("resnet18", "small"), torch.zeros(1, 3, 28, 28)
    minimum = prune_to_minimum(model, example)[1].params
    with pytest.raises(UserError, match=f"minimum .* {minimum:,} parameters"):
        prune(model, example, minimum - 1)
    assert count_params(prune_and_check(model, 28, minimum)) == minimum


def test_a_budget_that_the_model_meets_already_is_refused() -> None:
    model, example = build_network("resnet18", "small"), torch.zeros(1, 3, 28, 28)
    full = count_params(model)
    with pytest.raises(UserError, match=re.escape(f"nothing to prune: the budget is {full:,}")):
        prune(model, example, full)
    prune_and_check(model, 28, full - 1)


def test_at_least_one_budget_must_be_given() -> None:
    with pytest.raises(UserError, match=r"no budget.*params, macs, bytes"):
        prune(build_network("resnet18", "small"), torch.zeros(1, 3, 28, 28))


def test_the_model_is_not_modified() -> None:
    model = build_from_blocks(["residual", "depthwise", "groupnorm"])
    model[0].requires_grad_(False)  # type: ignore[index,union-attr]
    model[1].train()  # type: ignore[index,union-attr]
    before = copy.deepcopy(model)
    images = torch.randn(4, 3, 12, 12)
    losses = [lambda m: F.cross_entropy(m(images), torch.tensor([0, 1, 2, 3]))]
    pruned = prune(model, torch.zeros(1, 3, 12, 12), 4000, importance="taylor", losses=losses)
    state, state_before = model.state_dict(), before.state_dict()
    assert state.keys() == state_before.keys()
    assert all(torch.equal(state[key], state_before[key]) for key in state)
    # Neither model has gradients left; modes and trainable parameters are those of the original.
    for each in (model, pruned):
        assert [m.training for m in each.modules()] == [m.training for m in before.modules()]
        flags = [(p.requires_grad, p.grad) for p in each.parameters()]
        assert flags == [(p.requires_grad, None) for p in before.parameters()]


def test_the_result_is_a_plain_torchvision_network() -> None:
    pruned = prune(build_network("resnet18", "small"), torch.zeros(1, 3, 28, 28), 100_000)
    assert type(pruned) is torchvision.models.ResNet
    for module in pruned.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


@pytest.mark.parametrize("ignored", ["layer1.0.conv1", "layer1"])
def test_ignored_layers_keep_their_output_channels(ignored: str) -> None:
    model, lines = build_network("resnet18", "small"), list[str]()
    example = torch.zeros(1, 3, 28, 28)
    pruned = prune(
        model, example, "20%", ignored_layers=[ignored, "layer3.0.conv2"], log=lines.append
    )
    kept = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and (name + ".").startswith(ignored + "."):
            assert pruned.get_submodule(name).out_channels == module.out_channels
            kept += 1
    assert kept == (4 if ignored == "layer1" else 1)
    # The output of a residual block is added to those of all blocks of its stage.
    for name in ("layer3.0.conv2", "layer3.0.downsample.0", "layer3.1.conv2"):
        assert pruned.get_submodule(name).out_channels == 256
    assert pruned.get_submodule("layer3.0.conv1").out_channels < 256  # type: ignore[operator]
    assert 0.99 <= count_params(pruned) / (0.2 * count_params(model)) <= 1
    assert lines == []


def test_ignored_layers_must_exist_and_leave_something_to_prune() -> None:
    model, example = build_from_blocks(["plain"]), torch.zeros(1, 3, 12, 12)
    with pytest.raises(UserError, match=r"ignored_layers.*'1\.bod'.*'1\.body'"):
        prune(model, example, "50%", ignored_layers=["1.bod"])
    with pytest.raises(UserError, match="ignored_layers leaves nothing"):
        prune(model, example, "50%", ignored_layers=["0", "1"])
