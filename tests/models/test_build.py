"""Networks by specification: every source, stems, pretrained weights and custom functions."""

from __future__ import annotations

import io
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from tiny import Published
from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from compress.models.build import (
    build,
    has_pretrained_head,
    import_builder,
    network_names,
    pretrained_normalization,
    skeleton,
)
from compress.recipe import registry
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


def mark_slow(name: str) -> Any:
    """Mark the network whose skeleton takes seconds: RegNet cannot be built without values."""
    return pytest.param(name, marks=pytest.mark.slow) if name == "regnet_y_128gf" else name


@pytest.mark.slow
@pytest.mark.parametrize("name", map(mark_slow, network_names()))
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


CUSTOM = """
from torch import nn
def net(num_classes, width=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))
def resnet(num_classes, head=()):
    from torchvision.models import resnet18
    net = resnet18(num_classes=num_classes)
    net.asked = head
    return net
def other(classes): ...
value = 3
class Net(nn.Linear):
    def __init__(self, num_classes): super().__init__(4, num_classes)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "mynets").mkdir()
    (tmp_path / "mynets" / "vision.py").write_text(CUSTOM)
    (tmp_path / "mynets" / "broken.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("mynets")]:
        monkeypatch.delitem(sys.modules, name)
    return "mynets.vision"


def test_custom_function_builds_the_network(package: str) -> None:
    model = build(ModelSpec(f"{package}:net"), 7)
    assert model(torch.zeros(2, 3, 2, 2)).shape == (2, 7)
    assert build(ModelSpec(f"{package}:Net"), 7)(torch.zeros(1, 4)).shape == (1, 7)


def test_builder_replaces_the_function_that_a_custom_name_points_to(package: str) -> None:
    builder = import_builder(f"{package}:net")
    assert isinstance(build(ModelSpec("nowhere:at_all"), 7, builder), nn.Sequential)


def test_module_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "herenets.py").write_text(CUSTOM)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert import_builder("herenets:net")(num_classes=7)(torch.zeros(1, 3, 2, 2)).shape == (1, 7)


@pytest.mark.parametrize(
    "name",
    [
        "mynets.vision:nte",
        "mynets.visoin:net",
        "mynets.vision:",
        "mynets.vision:other",
        "mynets.vision:value",
        "mynets.broken:net",
        "nosuch:net",
        ":net",
        "builtins:max",
        "os:system",
        "..x:y",
    ],
)
def test_unsuitable_custom_function_is_refused_in_one_line(package: str, name: str) -> None:
    with pytest.raises(UserError, match="network") as caught:
        build(ModelSpec(name), 7)
    assert name in str(caught.value) and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "spec",
    [ModelSpec("a:b", "small"), ModelSpec("a:b", head=(8,))],
)
def test_custom_network_takes_no_options(spec: ModelSpec) -> None:
    with pytest.raises(UserError, match=r"'a:b'.*neither a stem nor a head"):
        build(spec, 7)


LOADING = """
import torch
from torch import nn


def loaded(num_classes):
    \"\"\"A network with trained weights of its own, for ten classes.\"\"\"
    pool = nn.AdaptiveAvgPool2d(1)
    network = nn.Sequential(nn.Conv2d(3, 6, 3), pool, nn.Flatten(), nn.Linear(6, 10))
    weights = {{key: torch.load(r"{file}")[key] for key in network.state_dict()}}
    network.load_state_dict(weights)
    assert float(weights["0.weight"].sum())  # needs values
    return network


def asked(num_classes, pretrained=True):
    print("built")
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, num_classes))
    network.asked = pretrained
    return network


def nothing(num_classes):
    pass


def fails(num_classes):
    return [][num_classes]
"""


@pytest.fixture
def loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The module `loadingnets`, and the weights that its function `loaded` loads."""
    torch.manual_seed(1)
    conv, linear = nn.Conv2d(3, 6, 3), nn.Linear(6, 10)
    weights = {f"0.{name}": tensor for name, tensor in conv.state_dict().items()}
    weights |= {f"3.{name}": tensor for name, tensor in linear.state_dict().items()}
    torch.save(weights, tmp_path / "weights.pt")
    (tmp_path / "loadingnets.py").write_text(LOADING.format(file=tmp_path / "weights.pt"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "loadingnets", raising=False)
    return weights


def test_weights_that_a_function_loads_are_kept_for_other_classes(
    loading: dict[str, torch.Tensor], recwarn: pytest.WarningsRecorder
) -> None:
    for classes in (4, 10):
        spec = ModelSpec("loadingnets:loaded", pretrained=True)
        model = build(spec, classes)
        assert torch.equal(model[0].weight, loading["0.weight"])
        assert torch.equal(model[3].weight, loading["3.weight"]) == (classes == 10)
        shapes = skeleton(spec, classes).state_dict()
        assert {k: v.shape for k, v in shapes.items()} == {
            k: v.shape for k, v in model.state_dict().items()
        }
        assert all(tensor.is_meta for tensor in shapes.values())
    assert not recwarn


def test_function_is_told_of_pretrained_weights_if_it_can_be(
    loading: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(ModelSpec("loadingnets:asked", pretrained=True), 3).asked is True
    assert build(ModelSpec("loadingnets:asked"), 3).asked is False
    assert skeleton(ModelSpec("loadingnets:asked", pretrained=True), 3).asked is False
    # What it prints stays out of a command's output.
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err == 3 * "built\n"


@pytest.mark.parametrize(("name", "message"), [("nothing", "NoneType"), ("fails", "index")])
def test_function_that_builds_no_network_is_refused(
    name: str, message: str, loading: dict[str, torch.Tensor]
) -> None:
    for make in (build, skeleton):
        with pytest.raises(UserError, match=f"'loadingnets:{name}'.*{message}"):
            make(ModelSpec(f"loadingnets:{name}"), 3)


def test_function_written_with_a_dot_gets_a_hint() -> None:
    for use in (import_builder, lambda name: build(ModelSpec(name), 3)):
        with pytest.raises(UserError, match=r"'my\.nets\.net'.*'my\.nets:net'"):
            use("my.nets.net")


@pytest.fixture
def plug_in(package: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A network registered as if another package had done so."""
    builtin = {**registry.NETWORKS.builtin, "plugged": f"{package}:resnet"}
    changed = registry.Registry(registry.NETWORKS.kind, registry.NETWORKS.group, builtin)
    monkeypatch.setattr("compress.models.build.NETWORKS", changed)
    return "plugged"


def test_registered_builder_gets_the_options_that_it_takes(plug_in: str) -> None:
    spec = ModelSpec(plug_in, "small", head=(8,), source="zoo")
    model: Any = build(spec, 7)
    assert model.asked == (8,) and isinstance(model.fc, nn.Linear)
    # It takes no stem, so its result gets one.
    assert model.conv1.kernel_size == (3, 3) and isinstance(model.maxpool, nn.Identity)
    assert plug_in in network_names()
    with pytest.raises(UserError, match=f"pretrained.*'{plug_in}'"):
        build(ModelSpec(plug_in, pretrained=True, source="zoo"), 7)


def test_pretrained_weights_without_internet_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    with pytest.raises(UserError, match=r"'resnet18' cannot be downloaded: .*not known") as caught:
        build(ModelSpec("resnet18", pretrained=True), 7)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet34_concat", "mobilenet_v2", "squeezenet1_1", "densenet121", "googlenet"],
)
def test_pretrained_network_gets_a_new_classifier(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"init_weights": True} if name == "googlenet" else {}
    original = torchvision.models.get_model(name.removesuffix("_concat"), weights=None, **options)
    file = io.BytesIO()
    torch.save(original.state_dict(), file)
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url",
        lambda *_, **__: torch.load(io.BytesIO(file.getvalue()), weights_only=True),
    )
    model = build(ModelSpec(name, pretrained=True), 7).eval()
    first = next(iter(original.state_dict()))
    assert torch.equal(model.state_dict()[first], original.state_dict()[first])
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("spec", "last", "kept"),
    [
        (ModelSpec("resnet18", pretrained=True), "fc", True),
        (ModelSpec("squeezenet1_1", pretrained=True), "classifier.1", True),
        (ModelSpec("resnet18", pretrained=True, head=()), "fc", False),
        (ModelSpec("resnet34_concat", pretrained=True), "fc.2", False),
    ],
)
def test_pretrained_classifier_is_kept_for_as_many_classes(
    spec: ModelSpec, last: str, kept: bool, published: Published
) -> None:
    original = published(spec.name.removesuffix("_concat"))
    theirs = [value for key, value in original.items() if key.startswith(last.removesuffix(".2"))]
    ours = [value for key, value in build(spec, 1000).state_dict().items() if key.startswith(last)]
    assert [
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)
    ] == [kept] * 2
    assert has_pretrained_head(spec, 1000) == kept and not has_pretrained_head(spec, 10)


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec("resnet18"),
        ModelSpec("resnet18", "half", pretrained=True),
        ModelSpec("googlenet", pretrained=True),
        ModelSpec("inception_v3", pretrained=True),
    ],
)
def test_network_with_anything_new_has_no_pretrained_head(spec: ModelSpec) -> None:
    assert not has_pretrained_head(spec, 1000)


def test_normalization_is_that_of_the_pretrained_weights() -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert pretrained_normalization(ModelSpec("resnet18", pretrained=True)) == imagenet
    swag = ModelSpec("vit_b_16", pretrained="IMAGENET1K_SWAG_E2E_V1")
    assert pretrained_normalization(swag) == imagenet
    half = ((0.5,) * 3, (0.5,) * 3)
    assert pretrained_normalization(ModelSpec("efficientnet_v2_l", pretrained=True)) == half


def test_pretrained_weights_are_chosen_by_name(published: Published) -> None:
    named = build(ModelSpec("resnet50", pretrained="IMAGENET1K_V1"), 7).state_dict()
    assert torch.equal(named["conv1.weight"], published("resnet50")["conv1.weight"])
    with pytest.raises(UserError, match=r"'IMAGENET1K_V9' of 'resnet18'.*IMAGENET1K_V1"):
        build(ModelSpec("resnet18", pretrained="IMAGENET1K_V9"), 7)


@pytest.mark.parametrize(
    "name", ["resnet10", "resnet26_concat", "densenet40_12", "resnext29_32x8d"]
)
def test_pretrained_weights_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"pretrained.*'{name}'"):
        build(ModelSpec(name, pretrained=True), 7)


@pytest.mark.parametrize("works", [False, True])
def test_a_download_is_announced_once_it_has_begun(
    works: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def download(url: str, file: str, *_: object, **__: object) -> None:
        if not works:
            raise urllib.error.URLError("no network")
        print("0%", file=sys.stderr)
        torch.save(torchvision.models.resnet18().state_dict(), file)

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    spec = ModelSpec("resnet18", pretrained=True)
    if works:
        build(spec, 4)
    else:
        with pytest.raises(UserError, match="resnet18"):
            build(spec, 4)
    shown = capsys.readouterr()
    assert shown.out == "" and ("Downloading" in shown.err) == works == ("0%" in shown.err)
