"""Which of a network's outputs are its logits; probabilities are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import compress
from compress.models.outputs import (
    describe_choice,
    find_logits,
    refuse_probabilities,
    return_logits,
)
from compress.runtime.errors import UserError


class Net(nn.Module):
    def __init__(self, last: nn.Module, outputs: int = 3) -> None:
        super().__init__()
        self.head, self.last = nn.Linear(3, outputs), last

    def forward(self, images: Tensor) -> Tensor:
        ended: Tensor = self.last(self.head(images.mean((2, 3))))
        return ended


class FeaturesFirst(nn.Module):
    """Returns 12 features and the logits, in a tuple or under a name."""

    def __init__(self, num_classes: int = 3, name: str | None = None) -> None:
        super().__init__()
        self.body, self.name = nn.Conv2d(3, 12, 3), name
        self.head = nn.Linear(12, num_classes)

    def forward(self, images: Tensor) -> object:
        features = self.body(images).relu().mean((2, 3))
        logits = self.head(features)
        return (features, logits) if self.name is None else {"f": features, self.name: logits}


class Spectral(nn.Module):
    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv = parametrizations.spectral_norm(nn.Conv2d(3, 8, 3))
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(images).relu().mean((2, 3)))
        return logits


def test_the_number_of_classes_tells_logits_from_features() -> None:
    features, logits = torch.zeros(2, 12), torch.zeros(2, 3)
    for output in (
        (features, logits),
        {"a": features, "b": logits},
        {"out": features, "b": logits},
    ):
        assert find_logits(output, classes=3) is logits
    assert find_logits((logits, torch.zeros(2, 3)), classes=3) is logits
    assert find_logits((features, logits), classes=5) is features
    assert find_logits({"scores": logits, "pred": logits.softmax(1)}, classes=3) is logits
    assert find_logits({"maps": features, "pred": logits}) is logits
    assert find_logits({"out": logits[0], "features": features}, classes=3).shape == (3,)


@pytest.mark.parametrize("name", [None, "pred"])
def test_a_network_that_returns_features_first_is_saved(name: str | None, tmp_path: Path) -> None:
    net = FeaturesFirst(name=name).eval()
    compress.save(net, tmp_path / "net.pth", classes=3, image_size=8)
    loaded = compress.load(tmp_path / "net.pth", model=FeaturesFirst(name=name))
    images = torch.rand(2, 3, 8, 8)
    output = net(images)
    assert torch.equal(loaded.model(images), output[1] if name is None else output[name])


def test_pruning_says_which_output_counts_where_the_classes_are_not_known() -> None:
    lines: list[str] = []
    example = torch.rand(1, 3, 8, 8)
    assert describe_choice(FeaturesFirst(12), example) == ""
    assert describe_choice(return_logits(FeaturesFirst(), classes=3), example) == ""
    net = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4), nn.Flatten())
    assert describe_choice(net, example) == "" and net.training
    with pytest.raises(UserError):
        compress.prune(FeaturesFirst(), example, "50%", log=lines.append)
    assert "12 and 3 columns; the first counts" in lines.pop(0)
    pruned = compress.prune(FeaturesFirst(name="pred"), example, "50%", log=lines.append)
    assert pruned.head.out_features == 3 and pruned.body.out_channels < 12  # type: ignore[union-attr]
    assert not [line for line in lines if "columns" in line]


def test_a_spectral_norm_comes_back_unchanged(tmp_path: Path) -> None:
    net = Spectral().eval()
    compress.save(net, tmp_path / "net.pth", classes=3, image_size=8)
    loaded = compress.load(tmp_path / "net.pth", builder=Spectral, model=None).model
    for key, tensor in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


@pytest.mark.parametrize(
    ("last", "word"),
    [(nn.Softmax(1), "softmax"), (nn.Sigmoid(), "sigmoid")],
)
def test_probabilities_are_refused(last: nn.Module, word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"it returns probabilities.*without the {word}"):
        refuse_probabilities(Net(last).requires_grad_(False), (3, 8, 8), "it")
    with pytest.raises(UserError, match=word):
        compress.save(Net(last), tmp_path / "net.pth", classes=3, image_size=8)


@pytest.mark.parametrize(
    "last", [nn.LogSoftmax(1), nn.LogSigmoid(), nn.Identity(), nn.ReLU(), nn.Tanh()]
)
@pytest.mark.parametrize("outputs", [1, 3])
def test_logits_are_not(last: nn.Module, outputs: int) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        refuse_probabilities(Net(last, outputs), (3, 8, 8), "it")


def test_zeros_are_not_and_a_network_that_does_not_run_is_left_alone() -> None:
    net = Net(nn.Identity())
    nn.init.zeros_(net.head.weight)
    nn.init.zeros_(net.head.bias)
    refuse_probabilities(net, (3, 8, 8), "it")
    refuse_probabilities(Net(nn.Softmax(1)), (1, 8, 8), "it")
