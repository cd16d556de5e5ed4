"""Networks that torchvision does not have: published sizes, and pruned, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from compress.models import checkpoint
from compress.models.build import build, skeleton
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pruning.pruner import prune
from compress.recipe.model_spec import ModelSpec
from compress.recipe.registry import NETWORKS

# Stagewise distillation, 10 classes at 224×224: blocks, millions of parameters, of multiply-adds.
STAGEWISE = {
    "resnet10": ([1, 1, 1, 1], "5.171", 896),
    "resnet14": ([1, 1, 2, 2], "11.072", 1359),
    "resnet18": ([2, 2, 2, 2], "11.441", 1824),
    "resnet20": ([2, 2, 3, 2], "12.622", 2056),
    "resnet26": ([3, 3, 3, 3], "17.712", 2752),
    "resnet34": ([3, 4, 6, 3], "21.550", 3679),
}


def count_params(name: str, classes: int = 10, stem: Any = "imagenet") -> int:
    model = skeleton(ModelSpec(name, stem), classes)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NETWORKS.builtin)
def test_every_registered_builder_takes_num_classes_alone(name: str) -> None:
    with torch.device("meta"):
        model = NETWORKS.load(name)(num_classes=7)
    ours = skeleton(ModelSpec(name, source="zoo"), 7)
    assert repr(model) == repr(ours)


@pytest.mark.parametrize("name", STAGEWISE)
def test_concat_network_has_the_published_size(name: str) -> None:
    """Parameters are exact; the published multiply-adds count a part of the batch norms."""
    blocks, millions, macs = STAGEWISE[name]
    model: Any = build(ModelSpec(f"{name}_concat"), 10)
    cost = measure_cost(model, (3, 224, 224))
    assert f"{cost.params / 1e6:.3f}" == millions
    assert 0.99 <= cost.macs / 1e6 / macs <= 1
    assert [len(model.get_submodule(f"layer{i}")) for i in (1, 2, 3, 4)] == blocks


@pytest.mark.parametrize("name", STAGEWISE)
def test_concat_network_differs_from_the_plain_one_in_its_head(name: str) -> None:
    concat = 1024 * 256 + 256 + 256 * 10 + 10
    assert count_params(name) == count_params(f"{name}_concat") - concat + 512 * 10 + 10


def test_concat_head_reads_maximum_and_mean_of_each_channel() -> None:
    torch.manual_seed(0)
    model = build(ModelSpec("resnet10_concat", "small"), 7).eval()
    features: list[torch.Tensor] = []
    model.get_submodule("layer4").register_forward_hook(
        lambda _, inputs, output: features.append(output)
    )
    logits = model(torch.randn(3, 3, 32, 32))
    pooled = torch.cat([features[0].amax(dim=(2, 3)), features[0].mean(dim=(2, 3))], dim=1)
    torch.testing.assert_close(logits, model.get_submodule("fc")(pooled))


def count_resnext29(groups: int, width: int) -> int:
    """Add up the template of Xie et al. 2016 (table 1), for 10 classes and a 3×3 stem."""
    total, inner, inputs = 64 * 27 + 2 * 64, groups * width, 64
    for outer in (256, 512, 1024):
        # The projection beside the first block.
        total += inputs * outer + 2 * outer
        for _ in range(3):
            total += inputs * inner + groups * 9 * (inner // groups) ** 2 + inner * outer
            # Batch norms.
            total += 4 * inner + 2 * outer
            inputs = outer
        inner *= 2
    return total + 1024 * 10 + 10


@pytest.mark.parametrize(("groups", "width"), [(2, 64), (8, 64), (16, 64), (32, 8)])
def test_resnext29_has_the_size_of_its_template(groups: int, width: int) -> None:
    name = f"resnext29_{groups}x{width}d"
    assert count_params(name, stem="small") == count_resnext29(groups, width)


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [
        # Xie et al. 2016, table 7; it has no 2x64d and no 32x8d.
        ("resnext29_8x64d", 10, 34.4),
        ("resnext29_16x64d", 10, 68.1),
        # Huang et al. 2016, table 2: L=40, k=12, without bottlenecks or compression.
        ("densenet40_12", 10, 1.0),
        # torchvision's count; the small stem saves 7,680 parameters.
        ("resnet152", 1000, 60.2),
        # Tan and Le 2019, arXiv:1905.11946, table 2.
        ("efficientnet_b0", 1000, 5.3),
    ],
)
def test_network_for_small_images_has_the_published_size(
    name: str, classes: int, millions: float
) -> None:
    stem = "imagenet" if name == "densenet40_12" else "small"
    assert abs(count_params(name, classes, stem) / 1e6 - millions) < 0.06


@pytest.mark.parametrize(
    ("name", "stem", "last", "shape"),
    [
        ("resnext29_2x64d", "small", "layer3", (1024, 8, 8)),
        ("densenet40_12", "imagenet", "block3", (448, 8, 8)),
        ("efficientnet_b0", "small", "features", (1280, 2, 2)),
        ("efficientnet_b0", "half", "features", (1280, 1, 1)),
        ("resnet152", "small", "layer4", (2048, 4, 4)),
    ],
)
def test_small_images_keep_their_resolution(
    name: str, stem: Any, last: str, shape: tuple[int, ...]
) -> None:
    model = build(ModelSpec(name, stem), 10).eval()
    shapes: list[torch.Size] = []
    model.get_submodule(last).register_forward_hook(
        lambda _, inputs, output: shapes.append(output.shape[1:])
    )
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert shapes == [torch.Size(shape)]


def test_dense_layer_reads_all_earlier_features() -> None:
    """Against plain arithmetic on one block."""
    torch.manual_seed(0)
    block = build(ModelSpec("densenet40_12"), 10).eval().get_submodule("block1")
    features = [torch.randn(1, 16, 8, 8)]
    images = features[0]
    for layer in block.children():
        conv, norm = layer.get_submodule("conv"), layer.get_submodule("norm")
        features.append(conv(torch.relu(norm(torch.cat(features, dim=1)))))
    assert torch.equal(block(images), torch.cat(features, dim=1))


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("resnet10_concat", "small"),
        ModelSpec("resnet14"),
        ModelSpec("resnet20_concat", "half", head=(32, 16)),
        ModelSpec("efficientnet_b0", "small"),
        ModelSpec("resnext29_2x64d", "half"),
        ModelSpec("densenet40_12"),
    ],
    ids=lambda spec: spec.name,
)
def test_network_is_pruned_saved_and_loaded(spec: ModelSpec, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(spec, 5).eval()
    budget = int(0.3 * sum(parameter.numel() for parameter in model.parameters()))
    pruned = prune(model, torch.zeros(1, 3, 16, 16), budget)
    assert 0.99 * budget <= measure_cost(pruned, (3, 16, 16)).params <= budget
    names, grey = ("a", "b", "c", "d", "e"), (0.5, 0.5, 0.5)
    checkpoint.save(
        Checkpoint(pruned, spec, names, (3, 16, 16), grey, grey, "made up"), tmp_path / "model.pth"
    )
    loaded = checkpoint.load(tmp_path / "model.pth")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), pruned.eval()(images))
    assert loaded.network == spec and type(loaded.model) is type(model)
    plain = (nn.Sequential, torchvision.models.ResNet, torchvision.models.EfficientNet)
    assert type(loaded.model) in plain
