"""Taps: what they hold, that nothing stays behind, which are chosen, and which refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from compress.distill.taps import default_taps, pair_up, tapped
from compress.errors import UserError
from compress.models.build import build
from compress.models.network import Network


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def net(width: int = 4, classes: int = 3) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)),
    )


def test_what_is_kept_is_what_the_modules_gave_and_the_hooks_go() -> None:
    network, images = net(), torch.randn(2, 3, 8, 8)
    with tapped(network, ["0", "3"]) as kept:
        network(images)
    torch.testing.assert_close(kept["0"], network[0](images))  # the ReLU behind it works in place
    torch.testing.assert_close(kept["3"], network[:4](images))
    assert list(kept) == ["0", "3"] and hooks(network) == 0
    with pytest.raises(RuntimeError), tapped(network, ["0"], before_relu=True):
        assert hooks(network) > 0
        network(torch.zeros(1))
    assert hooks(network) == 0


def test_before_the_relu_of_a_residual_block() -> None:
    """Its one ReLU, in place, is used twice; what the second gets is the sum."""
    block, images = BasicBlock(4, 4).train(), torch.randn(2, 4, 6, 6)
    network = nn.Sequential(nn.Sequential(block), nn.BatchNorm2d(4))
    with tapped(network, ["0", "1"], before_relu=True) as kept:
        network(images)
    by_hand = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(images))))) + images
    torch.testing.assert_close(kept["0"], by_hand)
    assert bool((kept["0"] < 0).any())
    torch.testing.assert_close(kept["1"], network[1](torch.relu(by_hand)))  # ends in no ReLU: as it is


EXPECTED = {
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "mobilenet_v2": ("features.1", "features.3", "features.6", "features.13", "features"),
    "efficientnet_b0": ("features.1", "features.2", "features.3", "features.5", "features"),
    "vgg11_bn": ("features.2", "features.6", "features.13", "features.20", "features.27"),
    "densenet121": (
        *("features.relu0", "features.transition1.conv", "features.transition2.conv", "features.transition3.conv"),
        "features",
    ),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_defaults_are_the_last_modules_at_each_resolution(name: str) -> None:
    network = build(Network(name), 10)
    assert default_taps(network, 32) == EXPECTED[name]
    assert hooks(network) == 0


def test_the_deepest_taps_are_paired() -> None:
    resnet, mobile = build(Network("resnet18"), 10), build(Network("mobilenet_v2"), 10)
    assert pair_up((), resnet, mobile, 32, 32) == (EXPECTED["resnet18"], EXPECTED["mobilenet_v2"][1:])
    assert pair_up(("layer2=features.4", " layer3 = features.7 "), resnet, mobile, 32, 64) == (
        ("layer2", "layer3"),
        ("features.4", "features.7"),
    )


WRONG = [
    (("layer5",), "the teacher has no layer 'layer5' (did you mean 'layer"),
    (("layer1=layr1",), "the student has no layer 'layr1' (did you mean 'layer1'?)"),
    (("",), "the teacher has no layer ''"),
    (("layer1=",), "the student has no layer ''"),
    (("fc",), "'fc' of the teacher gives (1, 10) for one image"),
    (("layer2", "layer1"), "passed in the order layer1, layer2"),
    (("layer1", "layer1"), "comes twice"),
]


@pytest.mark.parametrize(("taps", "words"), WRONG, ids=lambda x: str(x) if isinstance(x, tuple) else "")
def test_taps_that_will_not_do_are_refused(taps: tuple[str, ...], words: str) -> None:
    network = build(Network("resnet18"), 10)
    with pytest.raises(UserError) as caught:
        pair_up(taps, network, network, 32, 32)
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_network_without_maps_has_to_be_told() -> None:
    with pytest.raises(UserError, match="the student has no feature maps of several resolutions; name"):
        pair_up((), net(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8, 8)
