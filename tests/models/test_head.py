"""Heads: those that a recipe asks for, and what is frozen when only they learn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compress.models.build import build, skeleton
from compress.models.head import freeze_backbone
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError


def shapes(model: nn.Module, path: str) -> list[object]:
    """The layers at `path`: (inputs, outputs) of a linear one, and the names of others."""
    return [
        (m.in_features, m.out_features) if isinstance(m, nn.Linear) else type(m).__name__
        for m in model.get_submodule(path).modules()
        if not isinstance(m, nn.Sequential)
    ]


@pytest.mark.parametrize(
    ("network", "path", "layers"),
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
        (ModelSpec("vit_b_32", head=(8,)), "heads.head", [(768, 8), "ReLU", (8, 7)]),
        (ModelSpec("densenet40_12", head=(8,)), "classifier", [(448, 8), "ReLU", (8, 7)]),
        (ModelSpec("vgg11", head=(8,)), "classifier.6", [(4096, 8), "ReLU", (8, 7)]),
    ],
)
def test_the_head_is_the_one_asked_for(network: ModelSpec, path: str, layers: list[object]) -> None:
    assert shapes(skeleton(network, 7), path) == layers


@pytest.mark.parametrize("head", [(0,), (-1,), (5000,), (8,) * 5, (True,), ("8",)])
@pytest.mark.parametrize("name", ["resnet18", "resnet18_concat"])
def test_a_head_of_no_such_widths_is_refused(name: str, head: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"head \[.*\] must be at most 4 widths of 1 to 4096"):
        skeleton(ModelSpec(name, head=head), 7)


def test_a_head_where_the_network_has_no_linear_layer_is_refused() -> None:
    with pytest.raises(UserError, match="ends in a convolution"):
        skeleton(ModelSpec("squeezenet1_1", head=(8,)), 7)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        *(
            ("resnet18", "fc."),
            ("resnet10_concat", "fc."),
            ("vgg11_bn", "classifier."),
            ("googlenet", "fc."),
        ),
        *(
            ("convnext_tiny", "classifier."),
            ("mobilenet_v3_small", "classifier."),
            ("vit_b_32", "heads."),
        ),
        *(("swin_t", "head."), ("squeezenet1_1", "classifier."), ("densenet40_12", "classifier.")),
    ],
)
def test_all_but_the_head_is_frozen(name: str, head: str) -> None:
    model = skeleton(ModelSpec(name), 7)
    freeze_backbone(model)
    learning = {path for path, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {path for path, _ in model.named_parameters() if path.startswith(head)}
    assert learning


def test_a_network_in_one_piece_is_frozen_up_to_its_last_layer() -> None:
    model = nn.ModuleDict({"net": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 7))})
    freeze_backbone(model)
    learning = {path for path, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {"net.2.weight", "net.2.bias"}


def test_a_head_does_not_change_what_the_rest_begins_with() -> None:
    torch.manual_seed(0)
    plain = build(ModelSpec("resnet10"), 7).state_dict()
    torch.manual_seed(0)
    headed = build(ModelSpec("resnet10", head=(16,)), 7).state_dict()
    assert all(
        torch.equal(headed[key], value) for key, value in plain.items() if not key.startswith("fc.")
    )
