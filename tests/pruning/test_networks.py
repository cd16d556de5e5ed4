"""Which networks can be pruned, and how the others are refused."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import between, check, network, torchinfos
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from compress.pruning.pruner import narrowest, prune
from compress.recipe.model_spec import Stem
from compress.runtime.errors import UserError


@pytest.mark.parametrize(
    ("name", "stem", "side", "share"),
    [
        ("resnet34", "small", 28, 0.3),
        ("resnet50", "small", 28, 0.5),
        ("resnet101", "small", 28, 0.5),
        ("resnext50_32x4d", "half", 33, 0.4),
        ("wide_resnet50_2", "half", 28, 0.1),
        ("vgg16_bn", "imagenet", 32, 0.1),
        ("alexnet", "imagenet", 64, 0.3),
        ("densenet121", "imagenet", 32, 0.5),
        ("mobilenet_v2", "imagenet", 64, 0.0),
        ("mobilenet_v2", "imagenet", 33, 0.7),
        ("mobilenet_v3_large", "imagenet", 32, 0.5),
        ("mnasnet0_5", "imagenet", 48, 0.6),
        ("efficientnet_b0", "imagenet", 40, 0.6),
        ("regnet_y_400mf", "imagenet", 32, 0.5),
        ("regnet_x_400mf", "imagenet", 32, 0.1),
        ("convnext_tiny", "imagenet", 64, 0.4),
        ("squeezenet1_1", "imagenet", 64, 0.4),
        ("googlenet", "imagenet", 64, 0.5),
        ("vit_b_16", "imagenet", 224, 0.6),
    ],
)
def test_torchvisions_networks_land_on_the_budget(
    name: str, stem: Stem, side: int, share: float
) -> None:
    model = network(name, stem)
    check(model, side, between(model, side, share))


@pytest.mark.parametrize(
    ("name", "side", "layer"), [("swin_t", 32, "features.7"), ("maxvit_t", 224, "blocks.")]
)
def test_networks_whose_channels_cannot_be_followed_are_refused_by_the_layer(
    name: str, side: int, layer: str
) -> None:
    with pytest.raises(
        UserError, match=f"this network cannot be pruned: after layer '.*{re.escape(layer)}"
    ) as caught:
        prune(network(name), torch.zeros(1, 3, side, side), 100_000)
    assert len(str(caught.value).splitlines()) == 1
    network(name).get_submodule(str(caught.value).split("'")[1])  # a layer, not a parameter of one


def test_channels_that_are_shuffled_are_left_alone_and_those_between_pruned() -> None:
    model, example, said = network("shufflenet_v2_x0_5"), torch.zeros(1, 3, 32, 32), []
    whole, lowest = torchinfos(model, 32)[0], narrowest(model, example)[1].params
    for budget in (lowest, int(0.7 * whole)):
        pruned = prune(model, example, budget, note=said.append)
        assert 0.99 * budget <= torchinfos(pruned, 32)[0] <= budget
    assert all("left as they are" in line for line in said)
    for path, module in model.named_modules():
        if path.endswith("branch2.5"):  # what a branch puts out is shuffled
            assert pruned.get_submodule(path).out_channels == module.out_channels
    with pytest.raises(UserError, match="out of reach"):
        prune(model, example, lowest - 1)


class Subsampled(nn.Module):
    """Every other pixel, as where a network halves its maps without a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.a(images).relu()[:, :, ::2, 1:]
        return self.head(self.b(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_slices_of_maps_that_leave_the_channels_whole_are_followed() -> None:
    model = Subsampled().eval()
    pruned = prune(model, torch.zeros(1, 3, 16, 16), 4000)
    assert pruned.a.out_channels < 32 and pruned.b.out_channels < 32  # type: ignore[union-attr,operator]
    assert 0.99 * 4000 <= sum(p.numel() for p in pruned.parameters()) <= 4000


class Shuffled(nn.Module):
    """Grouped convolutions with their channels shuffled in between: the shapes fit however it is cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.a(images).relu()
        x = x.unflatten(1, (4, -1)).transpose(1, 2).flatten(1, 2)
        return self.head(self.b(x).relu().mean((2, 3)))  # type: ignore[no-any-return]


class Fixed(nn.Module):
    """A width written into the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 32, 3), nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.a(images).relu().mean((2, 3)).view(-1, 32))  # type: ignore[no-any-return]


def test_a_shuffle_is_found_by_cutting_and_its_channels_left_alone() -> None:
    model, example = Shuffled().eval(), torch.zeros(1, 3, 12, 12)
    pruned = prune(model, example, sum(p.numel() for p in model.parameters()) // 2)
    assert pruned.a.out_channels == 32 and pruned.b.out_channels < 16  # type: ignore[union-attr]
    silent = copy.deepcopy(model)
    kept = {tuple(row) for row in pruned.b.weight.flatten(1).tolist()}  # type: ignore[union-attr,operator]
    gone = [i for i, row in enumerate(model.b.weight.flatten(1).tolist()) if tuple(row) not in kept]
    silent.head.weight.data[:, gone] = 0
    images = torch.randn(2, 3, 12, 12)
    torch.testing.assert_close(pruned(images), silent(images))


def test_a_network_that_a_cut_would_break_is_refused() -> None:
    model = Fixed().eval()
    with pytest.raises(
        UserError, match=r"this network cannot be pruned: .* what hangs on a$"
    ) as caught:
        prune(model, torch.zeros(1, 3, 12, 12), sum(p.numel() for p in model.parameters()) // 2)
    assert len(str(caught.value).splitlines()) == 1


class Untraceable(nn.Module):
    """A network that runs, but not with gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 7)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.from_numpy(self.b(self.a(images)).numpy())
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_a_network_that_cannot_be_traced_is_refused_by_the_layer() -> None:
    words = r"tracing it fails at layer 'b' or after it \(Can't call numpy\(\)"
    with pytest.raises(UserError, match=words) as caught:
        prune(Untraceable().eval(), torch.zeros(1, 3, 12, 12), 1_000)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("gain", [1, 1e5])
def test_a_cut_that_cannot_be_checked_is_said(gain: float) -> None:
    """Without its norms, ten layers of such weights leave the range of floating point."""
    blocks = [
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(2, 16), nn.ReLU())
        for _ in range(10)
    ]
    for block in blocks:
        block[0].weight.data *= gain  # type: ignore[operator]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 7)]
    model, said = nn.Sequential(nn.Conv2d(3, 16, 3), *blocks, *head).eval(), list[str]()
    check(model, 12, sum(p.numel() for p in model.parameters()) // 2, said=said)
    assert any("could not be checked" in line for line in said) == (gain > 1)


class Rearranged(nn.Module):
    """Two convolutions, and what torch-pruning loses its way in: a gate, a pixel shuffle, a recurrent layer, products
    of maps."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a, self.b = how, nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3)
        self.lstm = nn.LSTM(32, 16, batch_first=True)
        self.head = nn.Linear({"pixels": 8, "products": 32 * 32}.get(how, 16), 7)

    def forward(self, images: Tensor) -> Tensor:
        x = self.b(self.a(images).relu())
        if self.how == "sequence":
            return self.head(self.lstm(x.flatten(2).transpose(1, 2))[0][:, -1])  # type: ignore[no-any-return]
        if self.how == "products":
            return self.head((x.flatten(2) @ x.flatten(2).mT).flatten(1))  # type: ignore[no-any-return]
        x = (
            F.glu(x, dim=1)
            if self.how == "glu"
            else self.gated(x)
            if self.how == "gate"
            else F.pixel_shuffle(x, 2)
        )
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]

    def gated(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=1)
        return value * gate.sigmoid()


@pytest.mark.parametrize("how", ["gate", "glu", "pixels", "sequence", "products"])
def test_channels_that_are_rearranged_are_left_alone_and_said(how: str) -> None:
    model, said = Rearranged(how).eval(), list[str]()
    budget = int(0.7 * sum(p.numel() for p in model.parameters()))
    pruned = check(model, 12, budget, said=said)
    assert pruned.b.out_channels == 32 and pruned.a.out_channels < 32  # type: ignore[union-attr]
    assert said[0].endswith("misreads what hangs on them: b")


class Detached(nn.Module):
    """A network whose first layers, or all, run without gradients."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = layers
        self.a, self.b, self.c, self.head = (
            *(nn.Conv2d(n, 32, 3) for n in (3, 32, 32)),
            nn.Linear(32, 7),
        )

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(
            (self.a, self.b, self.c, lambda maps: self.head(maps.mean((2, 3))))
        ):
            with torch.set_grad_enabled(torch.is_grad_enabled() and place >= self.layers):
                x = layer(x).relu()
        return x


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "hessian"])
def test_layers_without_gradients_are_left_alone_and_said(importance: str) -> None:
    model, said = Detached(2).eval(), list[str]()
    losses = [lambda model: model(torch.ones(4, 3, 12, 12)).square().mean()]
    example = torch.zeros(1, 3, 12, 12)
    pruned = prune(model, example, 13_000, importance=importance, losses=losses, note=said.append)
    assert [pruned.get_submodule(name).out_channels for name in "ab"] == [32, 32]
    assert pruned.c.out_channels < 32 and said[0].endswith(": a, b")  # type: ignore[union-attr,operator]
    with pytest.raises(
        UserError, match="cannot follow the channels of layer a, b, c, which runs without gradients"
    ):
        prune(Detached(4).eval(), torch.zeros(1, 3, 12, 12), 13_000)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.ConvTranspose2d(3, 32, 3),
        lambda: parametrizations.spectral_norm(nn.Conv2d(3, 32, 3)),
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 32, 3)),
        lambda: nn.utils.spectral_norm(nn.Conv2d(3, 32, 3)),
    ],
    ids=["transposed", "spectral_norm", "weight_norm", "spectral_norm of old"],
)
def test_layers_of_other_weights_are_left_alone_and_said(layer: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(
        layer(), nn.Conv2d(32, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 7)
    )
    said = list[str]()
    pruned = prune(model.eval(), torch.zeros(1, 3, 12, 12), 6_000, note=said.append)
    assert pruned[0].out_channels == 32 and pruned[1].out_channels < 32  # type: ignore[index,union-attr,operator]
    assert said[0] == "left as they are, since torch-pruning misreads what hangs on them: 0"


class Answering(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv = how, nn.Conv2d(3, 32, 3)

    def forward(self, images: Tensor) -> Any:
        x = self.conv(images)
        return {
            "map": x,
            "pair": (x.mean((2, 3)), x),
            "one": x.mean((1, 2, 3)),
            "dict": {"logits": x},
        }[self.how]


@pytest.mark.parametrize("how", ["map", "pair", "one", "dict"])
def test_a_model_that_is_no_classifier_is_refused(how: str) -> None:
    with pytest.raises(
        UserError, match=r"not a classifier: it answers .* where \(1, classes\) was due"
    ):
        prune(Answering(how), torch.zeros(1, 3, 12, 12), 100)


def test_a_model_that_does_not_run_on_the_example_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="does not run on images of shape") as caught:
        prune(network("resnet18", "small"), torch.zeros(1, 5, 28, 28), 100_000)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight"])
def test_a_model_that_holds_nan_anywhere_is_refused(name: str) -> None:
    model = copy.deepcopy(network("resnet18", "small"))
    getattr(model.bn1, name).data[3] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(UserError, match="not finite"):
        prune(model, torch.zeros(1, 3, 28, 28), 100_000)


def test_a_model_without_parameters_has_nothing_to_prune() -> None:
    with pytest.raises(UserError, match=r"nothing to prune: .* the model has 0 parameters"):
        prune(nn.Flatten(), torch.zeros(1, 3, 4, 4), 100)


def test_a_network_of_one_linear_layer_has_nothing_to_prune() -> None:
    with pytest.raises(UserError, match="cannot be pruned"):
        prune(nn.Sequential(nn.Flatten(), nn.Linear(48, 7)), torch.zeros(1, 3, 4, 4), 100)
