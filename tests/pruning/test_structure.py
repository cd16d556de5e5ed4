"""Structure: predicted costs are exact, cuts are verified, other models are refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from pruning_networks import (
    BLOCK_KINDS,
    build_from_blocks,
    build_network,
    count_independently,
    count_params,
    prune_and_check,
)
from torch import Tensor, nn

from compress.models.cost import measure_cost
from compress.pruning.allocate import COMFORTABLE_UNITS
from compress.pruning.importance import score_units
from compress.pruning.pruner import prune
from compress.pruning.structure import Structure, UnresolvedGroupError
from compress.recipe.model_spec import Stem
from compress.runtime.errors import UserError

EXAMPLE = torch.zeros(1, 3, 12, 12)


@pytest.mark.parametrize("flatten_maps", [False, True])
@pytest.mark.parametrize("kind", BLOCK_KINDS)
def test_the_predicted_cost_is_that_of_the_pruned_network(kind: str, flatten_maps: bool) -> None:
    structure = Structure(build_from_blocks([kind, "plain"], 32, flatten_maps), EXAMPLE)
    kept = [max(1, units - 2 * i - 1) for i, units in enumerate(structure.unit_counts())]
    predicted = structure.predict_cost(kept)
    assert structure.prune([torch.arange(units) for units in kept])
    assert measure_cost(structure.model, (3, 12, 12)) == predicted


def test_units_that_are_removed_and_restored_save_nothing() -> None:
    structure = Structure(build_from_blocks(["residual"]), EXAMPLE)
    full = structure.predict_cost(structure.unit_counts())
    expected = structure.predict_saving(0, 3)
    assert structure.predict_saving(0, 3) == expected
    saved = structure.remove_units(0, 3)
    assert saved == expected
    assert saved.params > 0
    assert saved + structure.remove_units(0, -3) == full - full
    structure.remove_units(1, 2)
    structure.reset()
    assert structure.predict_cost(structure.unit_counts()) == full


def test_neighbours_are_the_groups_that_share_a_layer() -> None:
    """In a chain of convolutions, a group's channels are read by the next layer only."""
    conv = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)]
    model = nn.Sequential(*conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
    structure = Structure(model, EXAMPLE)
    names = [group.name for group in structure.groups]
    neighbours = {
        name: {names[j] for j in found}
        for name, found in zip(names, structure.find_neighbours(), strict=True)
    }
    assert neighbours == {"0": {"0", "1"}, "1": {"0", "1", "2"}, "2": {"1", "2"}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resnet18", "small"),
        ("small_networks:densenet", "imagenet"),
        ("mobilenet_v2", "imagenet"),
        ("regnet_x_400mf", "imagenet"),
        ("resnext50_32x4d", "half"),
        ("googlenet", "imagenet"),
    ],
)
def test_removing_silent_channels_does_not_change_the_logits(name: str, stem: Stem) -> None:
    model, example = copy.deepcopy(build_network(name, stem)), torch.zeros(1, 3, 32, 32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[1::2] = 0
            module.bias.data[1::2] = 0
    structure = Structure(copy.deepcopy(model), example)
    scores = score_units("bn-scale", structure)
    silent = [int((score < 1e-6).sum()) for score in scores]
    kept = [
        max(units - dead, min(units, COMFORTABLE_UNITS))
        for units, dead in zip(structure.unit_counts(), silent, strict=True)
    ]
    assert sum(silent) >= 0.4 * sum(structure.unit_counts())
    budget = structure.predict_cost(kept).params
    pruned = prune(model, example, budget, importance="bn-scale")
    assert count_independently(pruned, 32)[0] == budget
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), model(images), rtol=1e-3, atol=1e-4)


class Reversed(nn.Module):
    """A network that reverses its channels with an index, which leaves every shape as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.a(images).relu().flip(1)
        return self.head(self.b(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_a_cut_that_changes_the_logits_is_detected() -> None:
    structure = Structure(Reversed(), EXAMPLE)
    names = [group.name for group in structure.groups]
    assert sorted(names) == ["a", "b"]
    kept = [torch.arange(16 if name == "a" else 32) for name in names]
    with pytest.raises(UnresolvedGroupError, match="logits"):
        structure.prune(kept)


class Centred(Reversed):
    """Subtracts the mean over its channels, so that none of them can be removed.

    The logits hardly show it: they are large.
    """

    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.head.bias, 1.0)

    def forward(self, images: Tensor) -> Tensor:
        x = self.a(images).relu()
        return self.head(self.b(x - x.mean(1, keepdim=True)).relu().mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_that_changes_the_logits_a_little_is_detected(seed: int) -> None:
    torch.manual_seed(seed)
    structure = Structure(Centred(), EXAMPLE)
    kept = [torch.arange(len(group) - (group.name == "a")) for group in structure.groups]
    with pytest.raises(UnresolvedGroupError, match="logits"):
        structure.prune(kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_correct_cut_passes_in_other_precisions(dtype: torch.dtype) -> None:
    model = build_from_blocks(["residual"], width=32).to(dtype)
    structure = Structure(model, torch.zeros(1, 3, 12, 12, dtype=dtype))
    assert structure.prune([torch.arange(len(group) - 1) for group in structure.groups])


@pytest.mark.parametrize("gain", [1, 1e5])
def test_a_cut_that_cannot_be_verified_is_logged(gain: float) -> None:
    """Without normalization layers, ten layers with a gain of 1e5 overflow."""
    blocks = [
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.ReLU())
        for _ in range(10)
    ]
    for block in blocks:
        block[0].weight.data *= gain  # type: ignore[operator]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 7)]
    model, lines = nn.Sequential(nn.Conv2d(3, 16, 3), *blocks, *head).eval(), list[str]()
    prune_and_check(model, 12, count_params(model) // 2, log=lines.append)
    assert any("could not be verified" in line for line in lines) == (gain > 1)


class NoClassifier(nn.Module):
    def __init__(self, output: str) -> None:
        super().__init__()
        self.output, self.conv = output, nn.Conv2d(3, 32, 3)

    def forward(self, images: Tensor) -> Any:
        x = self.conv(images)
        return {
            "map": x,
            "tuple": (x.mean((1, 2, 3)), x.sum()),
            "number": x.mean((1, 2, 3)),
            "dict": {"loss": x.sum()},
        }[self.output]


@pytest.mark.parametrize(
    ("output", "found"),
    [("tuple", "tuple"), ("number", r"\(1,\)"), ("dict", "dict")],
)
def test_a_model_that_is_not_a_classifier_is_refused(output: str, found: str) -> None:
    with pytest.raises(UserError, match=rf"not a classifier.* {found}.*logits"):
        prune(NoClassifier(output), EXAMPLE, 100)


def test_a_model_that_does_not_run_on_the_example_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"does not run on images of shape \(1, 5,") as caught:
        prune(build_network("resnet18", "small"), torch.zeros(1, 5, 28, 28), 100_000)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight"])
def test_a_model_with_nan_in_any_tensor_is_refused(name: str) -> None:
    model = copy.deepcopy(build_network("resnet18", "small"))
    getattr(model.bn1, name).data[3] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(UserError, match="not finite"):
        prune(model, torch.zeros(1, 3, 28, 28), 100_000)


def test_a_model_without_parameters_has_nothing_to_prune() -> None:
    with pytest.raises(UserError, match=r"nothing to prune: .* 0 parameters"):
        prune(nn.Flatten(), torch.zeros(1, 3, 4, 4), 100)
