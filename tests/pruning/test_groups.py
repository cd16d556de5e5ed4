"""Channel groups: which channels can be followed, and which layers are left alone."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pruning_networks import (
    build_from_blocks,
    build_network,
    count_params,
    prune_and_check,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from compress.pruning.groups import INPUT, OUTPUT, trace_channel_groups
from compress.pruning.pruner import prune, prune_to_minimum
from compress.recipe.registry import IMPORTANCES
from compress.runtime.errors import UserError

EXAMPLE = torch.zeros(1, 3, 12, 12)


def test_a_group_lists_every_layer_that_loses_channels() -> None:
    model = build_from_blocks(["residual"], width=32)
    groups = {group.name: group for group in trace_channel_groups(model, EXAMPLE).groups}
    # The root layer is whichever of the tied layers torch-pruning meets first.
    stem = next(group for group in groups.values() if "0" in group.output_layers)
    assert len(stem) == 32
    assert stem.output_layers == {"0", "1.body.3"}
    sides = {(id(member.layer), member.side) for member in stem.members}
    block = model.get_submodule("1.body")
    assert sides == {
        (id(model[0]), OUTPUT),  # type: ignore[index]
        (id(block[0]), INPUT),  # type: ignore[index]
        (id(block[3]), OUTPUT),  # type: ignore[index]
        (id(model[-1]), INPUT),  # type: ignore[index]
    }
    inner = groups["1.body.0"]
    assert len(inner) == 16
    assert inner.output_layers == {"1.body.0", "1.body.1"}


def test_a_unit_of_grouped_convolutions_takes_a_channel_of_each_group() -> None:
    model = build_from_blocks(["grouped"], width=32)
    groups = trace_channel_groups(model, EXAMPLE).groups
    (group,) = (group for group in groups if "1.body.0" in group.output_layers)
    assert group.units.tolist() == [[i, 8 + i, 16 + i, 24 + i] for i in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "image_size", "layer"),
    [("small_networks:swin", 32, "features.3"), ("small_networks:maxvit", 64, "blocks.")],
)
def test_networks_that_slice_tokens_name_the_layers_that_stay(
    name: str, image_size: int, layer: str
) -> None:
    model = build_network(name)
    with pytest.raises(UserError, match=f"out of reach.* {re.escape(layer)}") as caught:
        prune(model, torch.zeros(1, 3, image_size, image_size), 2_000)
    assert len(str(caught.value).splitlines()) == 1
    # The names are those of layers, not of parameters in them.
    model.get_submodule(str(caught.value).split(" as ")[1].split(",")[0])


@pytest.mark.slow
def test_channels_that_are_shuffled_stay_and_those_in_between_are_pruned() -> None:
    model, example = build_network("shufflenet_v2_x0_5"), torch.zeros(1, 3, 32, 32)
    lines: list[str] = []
    minimum = prune_to_minimum(model, example)[1].params
    for budget in (minimum, int(0.7 * count_params(model))):
        pruned = prune(model, example, budget, log=lines.append)
        assert 0.99 * budget <= count_params(pruned) <= budget
    assert len(lines) == 2
    assert all("cannot resolve" in line for line in lines)
    for path, module in model.named_modules():
        # The output of a branch is shuffled.
        if path.endswith("branch2.5"):
            assert pruned.get_submodule(path).out_channels == module.out_channels
    with pytest.raises(UserError, match="out of reach"):
        prune(model, example, minimum - 1)


class Subsampled(nn.Module):
    """A network that keeps every other pixel, as some do to halve their maps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.a(images).relu()[:, :, ::2, 1:]
        return self.head(self.b(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_slices_along_height_and_width_are_followed() -> None:
    pruned = prune(Subsampled().eval(), torch.zeros(1, 3, 16, 16), 4000)
    assert pruned.a.out_channels < 32  # type: ignore[union-attr,operator]
    assert pruned.b.out_channels < 32  # type: ignore[union-attr,operator]
    assert 0.99 * 4000 <= count_params(pruned) <= 4000


class Shuffled(nn.Module):
    """A network that shuffles channels with reshapes: shapes match however it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.a(images).relu()
        x = x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
        return self.head(self.b(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_a_wrong_group_is_detected_by_its_cut_and_left_alone() -> None:
    model, lines = Shuffled().eval(), list[str]()
    pruned = prune(model, EXAMPLE, count_params(model) // 2, log=lines.append)
    assert pruned.a.out_channels == 32  # type: ignore[union-attr]
    assert pruned.b.out_channels < 16  # type: ignore[union-attr,operator]
    assert lines[0].endswith("cannot resolve their channel groups: a")
    # The pruned network computes what the original does without the removed channels of b.
    silent = copy.deepcopy(model)
    kept = {tuple(row) for row in pruned.b.weight.flatten(1).tolist()}  # type: ignore[union-attr,operator]
    rows = model.b.weight.flatten(1).tolist()
    silent.head.weight.data[:, [i for i, row in enumerate(rows) if tuple(row) not in kept]] = 0
    images = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(pruned(images), silent(images))


class FixedWidth(nn.Module):
    """A network with a width written into its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 32, 3), nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.a(images).relu().mean((2, 3)).view(-1, 32))  # type: ignore[no-any-return]


def test_a_network_in_which_every_cut_fails_is_refused() -> None:
    model = FixedWidth().eval()
    with pytest.raises(UserError, match=r"cannot be pruned.* a$") as caught:
        prune(model, EXAMPLE, count_params(model) // 2)
    assert len(str(caught.value).splitlines()) == 1


class Untraceable(nn.Module):
    """A network that runs, but not with gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.from_numpy(self.b(self.a(images)).numpy())
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_a_network_that_cannot_be_traced_is_refused_with_the_layer() -> None:
    with pytest.raises(UserError, match=r"tracing fails.* 'b' .*numpy\(\)") as caught:
        prune(Untraceable().eval(), EXAMPLE, 1_000)
    assert len(str(caught.value).splitlines()) == 1


class Rearranged(nn.Module):
    """Two convolutions and an operation that torch-pruning cannot follow."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a, self.b = how, nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3)
        self.lstm = nn.LSTM(32, 16, batch_first=True)
        features = {"pixel_shuffle": 8, "product": 32 * 32}.get(how, 16)
        self.head = nn.Linear(features, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.b(self.a(images).relu())
        if self.how == "lstm":
            return self.head(self.lstm(x.flatten(2).transpose(1, 2))[0][:, -1])  # type: ignore[no-any-return]
        if self.how == "product":
            return self.head((x.flatten(2) @ x.flatten(2).mT).flatten(1))  # type: ignore[no-any-return]
        if self.how == "glu":
            x = F.glu(x, dim=1)
        elif self.how == "gate":
            value, gate = x.chunk(2, dim=1)
            x = value * gate.sigmoid()
        else:
            x = F.pixel_shuffle(x, 2)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_both_halves_of_a_split_lose_the_same_channels() -> None:
    model, lines = Rearranged("gate").eval(), list[str]()
    pruned = prune_and_check(model, 12, int(0.5 * count_params(model)), log=lines.append)
    assert pruned.b.out_channels < 32  # type: ignore[union-attr,operator]
    assert pruned.b.out_channels == 2 * pruned.head.in_features  # type: ignore[union-attr,operator]
    assert not any("cannot resolve" in line for line in lines)


@pytest.mark.parametrize("how", ["glu", "pixel_shuffle", "lstm", "product"])
def test_channels_that_are_rearranged_are_left_alone_and_logged(how: str) -> None:
    model, lines = Rearranged(how).eval(), list[str]()
    pruned = prune_and_check(model, 12, int(0.7 * count_params(model)), log=lines.append)
    assert pruned.b.out_channels == 32  # type: ignore[union-attr]
    assert pruned.a.out_channels < 32  # type: ignore[union-attr,operator]
    assert lines[0].endswith("cannot resolve their channel groups: b")


class Detached(nn.Module):
    """A network whose first `detached` layers run without gradients."""

    def __init__(self, detached: int) -> None:
        super().__init__()
        self.detached = detached
        self.a, self.b, self.c = (nn.Conv2d(channels, 32, 3) for channels in (3, 32, 32))
        self.head = nn.Linear(32, 7)

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.a, self.b, self.c, lambda maps: self.head(maps.mean((2, 3))))
        for index, layer in enumerate(layers):
            with torch.set_grad_enabled(torch.is_grad_enabled() and index >= self.detached):
                x = layer(x).relu()
        return x


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "hessian"])
def test_layers_that_run_without_gradients_are_left_alone_and_logged(importance: str) -> None:
    model, lines = Detached(2).eval(), list[str]()
    losses = [lambda model: model(torch.ones(4, 3, 12, 12)).square().mean()]
    pruned = prune(model, EXAMPLE, 13_000, importance=importance, losses=losses, log=lines.append)
    assert [pruned.get_submodule(name).out_channels for name in "ab"] == [32, 32]
    assert pruned.c.out_channels < 32  # type: ignore[union-attr,operator]
    assert lines[0].endswith(": a, b")


def test_a_network_that_runs_without_gradients_is_refused() -> None:
    with pytest.raises(UserError, match="layer a, b, c, which runs without gradients"):
        prune(Detached(4).eval(), EXAMPLE, 13_000)


@pytest.mark.parametrize(
    "make_layer",
    [
        lambda: nn.ConvTranspose2d(3, 32, 3),
        lambda: parametrizations.spectral_norm(nn.Conv2d(3, 32, 3)),
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 32, 3)),
        lambda: nn.utils.spectral_norm(nn.Conv2d(3, 32, 3)),
    ],
    ids=["transposed", "spectral_norm", "weight_norm", "old_spectral_norm"],
)
def test_layers_whose_weights_cannot_be_cut_are_left_alone_and_logged(
    make_layer: Callable[[], nn.Module],
) -> None:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 7)]
    model, lines = nn.Sequential(make_layer(), nn.Conv2d(32, 32, 3), *head), list[str]()
    pruned = prune(model.eval(), EXAMPLE, 6_000, log=lines.append)
    assert pruned[0].out_channels == 32  # type: ignore[index,union-attr]
    assert pruned[1].out_channels < 32  # type: ignore[index,union-attr,operator]
    assert lines[0].endswith("cannot resolve their channel groups: 0")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("importance", IMPORTANCES.builtin)
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_channels_that_a_computed_weight_reads_are_left_alone_and_logged(
    norm: Callable[[nn.Module], nn.Module], importance: str
) -> None:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 7)]
    layers = [nn.Conv2d(3, 32, 3), norm(nn.Conv2d(32, 32, 3)), nn.Conv2d(32, 32, 3)]
    model, lines = nn.Sequential(*layers, nn.BatchNorm2d(32), *head), list[str]()
    losses = [lambda model: model(torch.ones(4, 3, 12, 12)).square().mean()]
    pruned = prune(
        model.eval(), EXAMPLE, "90%", importance=importance, losses=losses, log=lines.append
    )
    found = [layer.out_channels for layer in pruned if isinstance(layer, nn.Conv2d)]  # type: ignore[union-attr]
    assert found[:2] == [32, 32] and found[2] < 32
    assert lines[0].endswith(": 1, 0")
    assert lines[1].startswith("the weights of 1 ") and "remove_parametrizations" in lines[1]


def test_a_network_of_one_linear_layer_cannot_be_pruned() -> None:
    with pytest.raises(UserError, match="cannot be pruned"):
        prune(nn.Sequential(nn.Flatten(), nn.Linear(48, 7)), torch.zeros(1, 3, 4, 4), 100)
