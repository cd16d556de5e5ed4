"""Networks that a function of the user's, or of another package, builds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import compress
from compress.models.build import (
    build,
    import_builder,
    network_names,
    skeleton,
)
from compress.recipe import registry
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError

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


@pytest.mark.parametrize(("name", "message"), [("nothing", "None"), ("fails", "index")])
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


class Windowed(nn.Module):
    """Makes a window when it first sees images, and keeps it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.window: torch.Tensor | None = None
        self.fc = nn.Linear(48, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.window is None:
            self.window = torch.ones_like(images[0])
        maps: torch.Tensor = self.fc((self.window * images).flatten(1))
        return maps


def test_network_that_keeps_a_tensor_of_its_first_call_can_be_trained_once_loaded(
    tmp_path: Path,
) -> None:
    compress.save(
        Windowed(2),
        tmp_path / "net.pth",
        classes=["a", "b"],
        image_size=4,
        mean=[0] * 3,
        std=[1] * 3,
    )
    model = compress.load(tmp_path / "net.pth", builder=Windowed).model
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    model.train()(images).sum().backward()
    assert images.grad is not None
