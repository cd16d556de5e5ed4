"""Networks by specification: every source, and stems."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from compress.models.build import (
    build,
    network_names,
    skeleton,
)
from compress.recipe.model_spec import ModelSpec, Stem
from compress.runtime.errors import UserError

# The smallest image side that suits, where it is not 32.
SIDES = {
    "alexnet": 63,
    "googlenet": 32,
    "inception_v3": 75,
    "swin_t": 32,
    "vit_b_32": 224,
}
NETWORKS = (
    "resnet18",
    "resnext50_32x4d",
    "vgg11_bn",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "squeezenet1_1",
    "efficientnet_b0",
    "convnext_tiny",
    "regnet_y_400mf",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    *SIDES,
)


# RegNet cannot be built without values; those of the largest take seconds to draw.
SKELETONS = [name for name in network_names() if name != "regnet_y_128gf"]


@pytest.mark.slow
@pytest.mark.parametrize("name", SKELETONS)
def test_classifier_has_as_many_outputs_as_classes(name: str) -> None:
    model = skeleton(ModelSpec(name), 7)
    assert all(parameter.is_meta for parameter in model.parameters())
    linear = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]
    convs = [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert 7 in linear + convs and 1000 not in linear
    assert not any("aux" in path for path, _ in model.named_modules())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("training", [False, True])
def test_logits_have_one_row_per_image(name: str, training: bool) -> None:
    side = SIDES.get(name, 32 if training else 33)
    model = build(ModelSpec(name), 7).train(training)
    with torch.no_grad():
        assert model(torch.randn(2, 3, side, side)).shape == (2, 7)


def test_skeleton_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    skeleton(ModelSpec("resnet18"), 3)
    skeleton(ModelSpec("resnet10_concat", "small"), 3)
    skeleton(ModelSpec("regnet_y_400mf", pretrained=True), 3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 8), ("half", 16), ("small", 32)])
@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "resnet10_concat"])
def test_stem_sets_the_size_of_the_first_feature_map(name: str, stem: Stem, side: int) -> None:
    model = build(ModelSpec(name, stem), 7)
    shapes: list[torch.Size] = []
    model.get_submodule("layer1").register_forward_pre_hook(
        lambda _, inputs: shapes.append(inputs[0].shape)
    )
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert shapes == [torch.Size((2, 64, side, side))]


@pytest.mark.parametrize("name", ["mobilenet_v2", "vgg11", "vit_b_16", "densenet40_12"])
def test_stem_of_other_families_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"'small'.*'{name}'"):
        skeleton(ModelSpec(name, "small"), 7)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet19", "resnet1"),
        ("Resnet18", "resnet18"),
        ("mobilenetv2", "mobilenet_v2"),
        ("zzz", "any"),
        ("resnet10-concat", "resnet10_concat"),
        ("resnext29_32x4d", "resnext29_32x8d"),
        ("densenet40", "densenet40_12"),
    ],
)
def test_unknown_network_suggests_the_closest_name(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"'{name}'.*{hint}"):
        build(ModelSpec(name), 7)


@pytest.mark.parametrize(
    ("name", "source"), [("resnet10", "torchvision"), ("resnet18", "zoo"), ("resnet19", "zoo")]
)
def test_network_of_another_source_is_unknown(name: str, source: Any) -> None:
    with pytest.raises(UserError, match=f"unknown network '{name}'"):
        build(ModelSpec(name, source=source), 7)


@pytest.mark.parametrize("name", ["raft_small", "fasterrcnn_resnet50_fpn", "quantized_resnet18"])
def test_networks_that_do_not_classify_are_unknown(name: str) -> None:
    with pytest.raises(UserError, match=f"unknown network '{name}'"):
        build(ModelSpec(name), 7)


def test_initial_weights_are_drawn_in_the_order_network_stem_head() -> None:
    """A seed must keep its initial weights: the same layers by hand, in that order."""
    torch.manual_seed(5)
    blocks = [1, 1, 1, 1]
    by_hand = ResNet(BasicBlock, blocks, num_classes=7, zero_init_residual=True)
    by_hand.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(by_hand.conv1.weight, mode="fan_out", nonlinearity="relu")
    by_hand.fc = nn.Sequential(nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 7))
    torch.manual_seed(5)
    ours = build(ModelSpec("resnet10_concat", "small"), 7).state_dict()
    theirs = by_hand.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
