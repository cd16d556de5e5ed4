"""Feature taps: the maps they capture, hooks that are removed, defaults, and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from compress.distillation.feature_taps import default_taps, pair_taps, tap_features
from compress.distillation.features import Tapped
from compress.distillation.stagewise import split_blocks
from compress.models.build import build, skeleton
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def net(width: int = 4, classes: int = 3) -> nn.Sequential:
    return nn.Sequential(
        *(
            nn.Conv2d(3, width, 3, 1, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, 2, 1),
            nn.ReLU(inplace=True),
        ),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)),
    )


def test_maps_are_the_outputs_of_their_modules_and_no_hook_remains() -> None:
    network, images = net(), torch.randn(2, 3, 8, 8)
    with tap_features(network, ["0", "3"]) as maps:
        network(images)
    # The ReLU behind the first one works in place.
    torch.testing.assert_close(maps["0"], network[0](images))
    torch.testing.assert_close(maps["3"], network[:4](images))
    assert list(maps) == ["0", "3"] and hooks(network) == 0
    with pytest.raises(RuntimeError), tap_features(network, ["0"], before_relu=True):
        assert hooks(network) > 0
        network(torch.zeros(1))
    assert hooks(network) == 0


def test_maps_before_the_last_relu_of_a_residual_block() -> None:
    """The block runs its one ReLU twice, in place; the input of the second run is the sum."""
    block, images = BasicBlock(4, 4).train(), torch.randn(2, 4, 6, 6)
    network = nn.Sequential(nn.Sequential(block), nn.BatchNorm2d(4))
    with tap_features(network, ["0", "1"], before_relu=True) as maps:
        network(images)
    by_hand = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(images))))) + images
    torch.testing.assert_close(maps["0"], by_hand)
    assert bool((maps["0"] < 0).any())
    # A module that does not end in a ReLU: its output.
    torch.testing.assert_close(maps["1"], network[1](torch.relu(by_hand)))


EXPECTED = {
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "mobilenet_v2": ("features.1", "features.3", "features.6", "features.13", "features"),
    "efficientnet_b0": ("features.1", "features.2", "features.3", "features.5", "features"),
    "squeezenet1_1": ("features.1", "features.4", "features.7", "features"),
    "swin_t": ("features.1", "features.3", "features.5", "permute"),
    "vgg11_bn": ("features.2", "features.6", "features.13", "features.20", "features.27"),
    "densenet121": (
        "features.relu0",
        "features.transition1.conv",
        "features.transition2.conv",
        "features.transition3.conv",
        "features",
    ),
}

FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "densenet40_12",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext29_2x64d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_default_taps_suit_every_method_for_every_family(name: str) -> None:
    """Square maps of falling size, with parameters to train before each and a classifier behind the
    last."""
    size = {"maxvit_t": 224, "inception_v3": 96}.get(name, 64)
    network, image = skeleton(ModelSpec(name), 7), torch.zeros(1, 3, size, size, device="meta")
    student = Tapped(network, network, default_taps(network, size), image)
    shapes = [tuple(image.shape) for image in student.measure()]
    assert len(shapes) >= 3 and all(
        channels != 7 and height == width for _, channels, height, width in shapes
    )
    assert [side for *_, side in shapes] == sorted({side for *_, side in shapes}, reverse=True)
    assert len(split_blocks(student)) == len(shapes) + 1


def test_maps_with_channels_last_become_channels_first() -> None:
    network = build(ModelSpec("swin_t"), 7).eval()
    with tap_features(network, ["features.3"]) as maps:
        network(torch.zeros(1, 3, 64, 64))
        output = network.features[:4](torch.zeros(1, 3, 64, 64))  # type: ignore[index]
    torch.testing.assert_close(maps["features.3"], output.permute(0, 3, 1, 2))


@pytest.mark.parametrize("name", EXPECTED)
def test_default_taps_are_the_last_modules_at_each_resolution(name: str) -> None:
    network = build(ModelSpec(name), 10)
    assert default_taps(network, 32) == EXPECTED[name]
    assert hooks(network) == 0


def test_the_deepest_taps_are_paired() -> None:
    resnet, mobile = build(ModelSpec("resnet18"), 10), build(ModelSpec("mobilenet_v2"), 10)
    paired = pair_taps((), (resnet, 32), (mobile, 32))
    assert paired == (EXPECTED["resnet18"], EXPECTED["mobilenet_v2"][1:])
    named = ("layer2=features.4", " layer3 = features.7 ")
    paired = pair_taps(named, (resnet, 32), (mobile, 64))
    assert paired == (("layer2", "layer3"), ("features.4", "features.7"))


WRONG = [
    (("layer5",), r"taps: .*teacher.*'layer5'.*did you mean 'layer\d'"),
    (("layer1=layr1",), "taps: .*student.*'layr1'.*did you mean 'layer1'"),
    (("",), "taps: .*teacher.*''"),
    (("layer1=",), "taps: .*student.*''"),
    (("fc",), r"taps: 'fc'.*teacher.*\(1, 10\)"),
    (("layer2", "layer1"), "taps: .*order layer1, layer2"),
    (("layer1", "layer1"), "taps: layer1, layer1: .*twice"),
]


@pytest.mark.parametrize(("taps", "message"), WRONG, ids=[",".join(taps) for taps, _ in WRONG])
def test_unusable_taps_are_refused_in_one_line(taps: tuple[str, ...], message: str) -> None:
    network = build(ModelSpec("resnet18"), 10)
    with pytest.raises(UserError, match=message) as refused:
        pair_taps(taps, (network, 32), (network, 32))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_network_with_maps_of_one_resolution_needs_named_taps(role: str) -> None:
    poor = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    networks = {"teacher": (net(), 8), "student": (net(), 8)} | {role: (poor, 8)}
    with pytest.raises(UserError, match=f"taps: the {role} has no feature maps"):
        pair_taps((), networks["teacher"], networks["student"])
