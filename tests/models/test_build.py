"""Networks by name: every one that torchvision classifies with, their stems, and a person's own."""

from __future__ import annotations

import io
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Published
from torch import nn

from compress.models.build import build, has_pretrained_head, import_builder, names, skeleton
from compress.recipe.model_spec import ModelSpec, Stem
from compress.runtime.errors import UserError

SIZES = {  # the smallest that suits, where it is not 32
    "alexnet": 63,
    "googlenet": 32,
    "inception_v3": 75,
    "swin_t": 32,
    "vit_b_32": 224,
}
RUN = (
    "resnet18",
    "resnext50_32x4d",
    "vgg11_bn",
    "densenet121",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "squeezenet1_1",
)
RUN += (
    "efficientnet_b0",
    "convnext_tiny",
    "regnet_y_400mf",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    *SIZES,
)


@pytest.mark.parametrize("name", names())
def test_every_network_has_a_head_for_the_classes_asked_for(name: str) -> None:
    model = skeleton(ModelSpec(name), 7)
    assert all(parameter.is_meta for parameter in model.parameters())
    outputs = [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]
    outputs += [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert 7 in outputs and 1000 not in [
        m.out_features for m in model.modules() if isinstance(m, nn.Linear)
    ]
    assert not any("aux" in path for path, _ in model.named_modules())


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("training", [False, True])
def test_logits_come_one_row_an_image(name: str, training: bool) -> None:
    side = SIZES.get(name, 32 if training else 33)
    model = build(ModelSpec(name), 7).train(training)
    with torch.no_grad():
        assert model(torch.randn(2, 3, side, side)).shape == (2, 7)


def test_a_skeleton_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    skeleton(ModelSpec("resnet18"), 3)
    skeleton(ModelSpec("regnet_y_400mf", pretrained=True), 3)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 8), ("half", 16), ("small", 32)])
@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_a_stem_sets_how_small_the_first_feature_map_is(name: str, stem: Stem, side: int) -> None:
    model = build(ModelSpec(name, stem), 7)
    shapes: list[torch.Size] = []
    model.get_submodule("layer1").register_forward_pre_hook(
        lambda _, inputs: shapes.append(inputs[0].shape)
    )
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    assert shapes == [torch.Size((2, 64, side, side))]


@pytest.mark.parametrize("name", ["mobilenet_v2", "vgg11", "vit_b_16", "densenet40_12"])
def test_other_networks_have_no_stem_to_choose(name: str) -> None:
    with pytest.raises(UserError, match=f"'small' is for ResNets and EfficientNets, and '{name}'"):
        skeleton(ModelSpec(name, "small"), 7)


def test_an_unknown_stem_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown stem 'smal' .*'small'"):
        skeleton(ModelSpec("resnet18", "smal"), 7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        *(
            ("resnet19", "resnet1"),
            ("Resnet18", "resnet18"),
            ("mobilenetv2", "mobilenet_v2"),
            ("zzz", "any"),
        ),
        *(
            ("resnet10-concat", "resnet10_concat"),
            ("resnext29_32x4d", "resnext29_32x8d"),
            ("densenet40", "densenet40_12"),
        ),
    ],
)
def test_an_unknown_network_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(UserError, match=f"unknown network '{name}'.*{hint}"):
        build(ModelSpec(name), 7)


@pytest.mark.parametrize(
    "name", ["fcn_resnet50", "raft_small", "fasterrcnn_resnet50_fpn", "quantized_resnet18"]
)
def test_networks_that_do_not_classify_are_unknown(name: str) -> None:
    with pytest.raises(UserError, match="unknown network"):
        build(ModelSpec(name), 7)


OWN = """
from torch import nn
def net(num_classes, width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))
def other(classes): ...
value = 3
class Net(nn.Linear):
    def __init__(self, num_classes): super().__init__(4, num_classes)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mynets").mkdir()
    (tmp_path / "mynets" / "vision.py").write_text(OWN)
    (tmp_path / "mynets" / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("mynets")]:
        monkeypatch.delitem(sys.modules, name)
    return "mynets.vision"


def test_a_function_of_ones_own_builds_the_network(package: str) -> None:
    model = build(ModelSpec(f"{package}:net"), 7)
    assert model(torch.zeros(2, 3, 2, 2)).shape == (2, 7)
    assert build(ModelSpec(f"{package}:Net"), 7)(torch.zeros(1, 4)).shape == (1, 7)
    assert isinstance(
        build(ModelSpec("nowhere:at_all"), 7, own=import_builder(f"{package}:net")), nn.Sequential
    )


@pytest.mark.parametrize(
    "name",
    [
        *(
            "mynets.vision:nte",
            "mynets.visoin:net",
            "mynets.vision:",
            "mynets.vision:other",
            "mynets.vision:value",
        ),
        *("mynets.broken:net", "nosuch:net", ":net", "builtins:max", "os:system", "..x:y"),
    ],
)
def test_a_bad_function_is_refused_in_one_line(package: str, name: str) -> None:
    with pytest.raises(UserError, match="network") as caught:
        build(ModelSpec(name), 7)
    assert name in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "network",
    [ModelSpec("a:b", "small"), ModelSpec("a:b", pretrained=True), ModelSpec("a:b", head=(8,))],
)
def test_a_network_of_ones_own_takes_no_options(network: ModelSpec) -> None:
    with pytest.raises(UserError, match="neither a stem nor"):
        build(network, 7)


def test_pretrained_weights_without_the_internet_are_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(
        UserError, match=r"pretrained weights of 'resnet18' cannot be downloaded: .*not known"
    ) as caught:
        build(ModelSpec("resnet18", pretrained=True), 7)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet34_concat", "mobilenet_v2", "squeezenet1_1", "densenet121", "googlenet"],
)
def test_pretrained_weights_get_a_fresh_head(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    whole = (
        torchvision.models.get_model(name, weights=None, init_weights=True)
        if name == "googlenet"
        else None
    )
    whole = whole or torchvision.models.get_model(name.removesuffix("_concat"), weights=None)
    stored = io.BytesIO()
    torch.save(whole.state_dict(), stored)
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url",
        lambda *_, **__: torch.load(io.BytesIO(stored.getvalue()), weights_only=True),
    )
    model = build(ModelSpec(name, pretrained=True), 7).eval()
    first = next(iter(whole.state_dict()))
    assert torch.equal(model.state_dict()[first], whole.state_dict()[first])
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("network", "last", "kept"),
    [
        (ModelSpec("resnet18", pretrained=True), "fc", True),
        (ModelSpec("squeezenet1_1", pretrained=True), "classifier.1", True),
        (ModelSpec("resnet18", pretrained=True, head=()), "fc", False),
        (ModelSpec("resnet34_concat", pretrained=True), "fc.2", False),
    ],
)
def test_a_pretrained_head_is_kept_where_the_classes_are_its_own(
    network: ModelSpec, last: str, kept: bool, published: Published
) -> None:
    whole = published(network.name.removesuffix("_concat"))
    theirs = [tensor for key, tensor in whole.items() if key.startswith(last.removesuffix(".2"))]
    ours = [
        tensor for key, tensor in build(network, 1000).state_dict().items() if key.startswith(last)
    ]
    assert [
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)
    ] == [kept] * 2
    assert has_pretrained_head(network, 1000) == kept and not has_pretrained_head(network, 10)


def test_pretrained_weights_by_their_name(published: Published) -> None:
    named = build(ModelSpec("resnet50", pretrained="IMAGENET1K_V1"), 7).state_dict()
    assert torch.equal(named["conv1.weight"], published("resnet50")["conv1.weight"])
    with pytest.raises(
        UserError,
        match="no pretrained weights 'IMAGENET1K_V9' of 'resnet18': there are IMAGENET1K_V1",
    ):
        build(ModelSpec("resnet18", pretrained="IMAGENET1K_V9"), 7)


def test_pretrained_weights_that_nobody_offers_are_refused() -> None:
    for name in ("resnet10", "resnet26_concat", "densenet40_12", "resnext29_32x8d"):
        with pytest.raises(UserError, match="nobody offers pretrained weights"):
            build(ModelSpec(name, pretrained=True), 7)
