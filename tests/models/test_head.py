"""Heads: perceptrons in place of the classifier, and frozen backbones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.models.build import build, skeleton
from compress.models.head import find_head, find_last_layer, freeze_backbone, replace_head
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError


def list_layers(model: nn.Module, path: str) -> list[object]:
    """Return the layers at `path`: (inputs, outputs) of linear ones, type names of others."""
    return [
        (m.in_features, m.out_features) if isinstance(m, nn.Linear) else type(m).__name__
        for m in model.get_submodule(path).modules()
        if not isinstance(m, nn.Sequential)
    ]


@pytest.mark.parametrize(
    ("spec", "path", "layers"),
    [
        (ModelSpec("resnet18"), "fc", [(512, 7)]),
        (ModelSpec("resnet18", head=()), "fc", [(512, 7)]),
        (ModelSpec("resnet18", head=(256,)), "fc", [(512, 256), "ReLU", (256, 7)]),
        (
            ModelSpec("resnet101", head=(64, 32)),
            "fc",
            [(2048, 64), "ReLU", (64, 32), "ReLU", (32, 7)],
        ),
        (ModelSpec("resnet18_concat"), "fc", [(1024, 256), "ReLU", (256, 7)]),
        (ModelSpec("resnet18_concat", head=()), "fc", [(1024, 7)]),
        (ModelSpec("resnet18_concat", head=(32,)), "fc", [(1024, 32), "ReLU", (32, 7)]),
        (ModelSpec("resnet10_concat", head=(32,)), "fc", [(1024, 32), "ReLU", (32, 7)]),
        (ModelSpec("vit_b_32", head=(8,)), "heads.head", [(768, 8), "ReLU", (8, 7)]),
        (ModelSpec("densenet40_12", head=(8,)), "classifier", [(448, 8), "ReLU", (8, 7)]),
        (ModelSpec("vgg11", head=(8,)), "classifier.6", [(4096, 8), "ReLU", (8, 7)]),
    ],
)
def test_head_has_the_hidden_widths(spec: ModelSpec, path: str, layers: list[object]) -> None:
    assert list_layers(skeleton(spec, 7), path) == layers


@pytest.mark.parametrize("head", [(0,), (-1,), (5000,), (8,) * 5])
@pytest.mark.parametrize("name", ["resnet18", "resnet18_concat"])
def test_head_with_unsuitable_widths_is_refused(name: str, head: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"head \[.*4 widths of 1 to 4096"):
        skeleton(ModelSpec(name, head=head), 7)


@pytest.mark.parametrize("head", [(True,), ("8",), (8.0,)])
def test_head_of_anything_but_integers_is_refused(head: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"head \[.*4 widths of 1 to 4096"):
        replace_head(nn.Sequential(nn.Linear(3, 2)), head, 7)


def test_head_of_a_network_that_ends_in_a_convolution_is_refused() -> None:
    with pytest.raises(UserError, match=r"`head`.*convolution"):
        skeleton(ModelSpec("squeezenet1_1", head=(8,)), 7)


def test_network_without_a_layer_for_logits_is_refused() -> None:
    with pytest.raises(UserError, match="no linear layer or convolution"):
        find_last_layer(nn.Sequential(nn.ReLU(), nn.Flatten()))


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("resnet10_concat", "fc"),
        ("vgg11_bn", "classifier"),
        ("googlenet", "fc"),
        ("convnext_tiny", "classifier"),
        ("mobilenet_v3_small", "classifier"),
        ("vit_b_32", "heads"),
        ("swin_t", "head"),
        ("squeezenet1_1", "classifier"),
        ("densenet40_12", "classifier"),
    ],
)
def test_frozen_backbone_leaves_only_the_head_to_train(name: str, head: str) -> None:
    model = skeleton(ModelSpec(name), 7)
    assert find_head(model) == head
    freeze_backbone(model)
    trained = {path for path, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {path for path, _ in model.named_parameters() if path.startswith(f"{head}.")}
    assert trained == expected and expected


def test_network_in_one_module_is_frozen_up_to_its_last_layer() -> None:
    model = nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 7))})
    freeze_backbone(model)
    trained = {path for path, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"net.2.weight", "net.2.bias"}


def test_head_does_not_change_the_initial_weights_of_the_rest() -> None:
    torch.manual_seed(0)
    plain = build(ModelSpec("resnet10"), 7).state_dict()
    torch.manual_seed(0)
    headed = build(ModelSpec("resnet10", head=(16,)), 7).state_dict()
    backbone = [key for key in plain if not key.startswith("fc.")]
    assert len(backbone) == len(plain) - 2
    assert all(torch.equal(headed[key], plain[key]) for key in backbone)
