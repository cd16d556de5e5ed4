"""Heads: perceptrons in place of the classifier, and frozen backbones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from compress.models.build import build, skeleton
from compress.models.head import (
    find_head,
    find_last_layer,
    find_other_head,
    freeze_backbone,
    replace_head,
)
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


class HeadFirst(nn.Module):
    """Its head is registered before the layer that runs before it."""

    def __init__(self, num_classes: int = 10, hidden: int = 8) -> None:
        super().__init__()
        self.head = nn.Linear(hidden, num_classes)
        self.proj = nn.Linear(3, hidden)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.proj(images.mean((2, 3))).relu())
        return logits


class Side(HeadFirst):
    """Another head runs last."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.side = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Any:
        features = self.proj(images.mean((2, 3))).relu()
        return {"logits": self.head(features), "turned": self.side(features)}


@pytest.mark.parametrize(
    ("model", "classes", "path"),
    [
        (HeadFirst(), 5, "head"),
        (HeadFirst(5), 5, None),
        (Side(), 5, "head"),
        (Side(5), 5, None),
        (torchvision.models.squeezenet1_1(num_classes=10), 5, "classifier.1"),
        (torchvision.models.squeezenet1_1(num_classes=5), 5, None),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 6), nn.Linear(6, 10)), 5, "2"),
        (nn.Sequential(nn.Conv2d(3, 10, 3)), 5, None),
    ],
)
def test_the_head_of_other_classes_is_the_layer_that_outputs_the_logits(
    model: nn.Module, classes: int, path: str | None
) -> None:
    assert find_other_head(model, classes) == path


def test_a_head_that_is_registered_first_is_trained_alone() -> None:
    model = HeadFirst()
    freeze_backbone(model)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "head.weight",
        "head.bias",
    ]


def test_a_head_that_is_registered_first_is_replaced() -> None:
    for make in (build, skeleton):
        model = make(ModelSpec("nets:head_first"), 5, lambda num_classes: HeadFirst())
        assert (model.head.out_features, model.proj.out_features) == (5, 8)
