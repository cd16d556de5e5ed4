"""Weights files: networks of any widths come back unchanged, and a failed save loses nothing."""

from __future__ import annotations

import copy
import dataclasses
import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from small_checkpoints import make_checkpoint, small_checkpoint
from torch import nn

import compress
from compress.models import checkpoint
from compress.models.build import build, import_builder
from compress.models.checkpoint import Checkpoint
from compress.models.memory_format import to_channels_last
from compress.models.tensor_file import read_tensors, write_tensors
from compress.pruning.pruner import prune
from compress.recipe.load import recipe_from_dict
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError

SHIPPED = Path(__file__).parents[2] / "weights"

# Name, stem, side of the images, fraction of the parameters that pruning keeps (None: not pruned).
NETWORKS = [
    ("resnet18", "small", 28, 0.02),
    ("resnet18", "half", 28, 0.5),
    ("mobilenet_v2", "imagenet", 32, 0.1),
    ("mobilenet_v3_small", "imagenet", 32, 0.2),
    ("regnet_y_400mf", "imagenet", 32, 0.2),
    ("squeezenet1_1", "imagenet", 64, 0.3),
    ("swin_t", "imagenet", 32, None),
]
LARGE_NETWORKS = [
    ("resnet34", "small", 8, 0.02),
    ("resnet50", "imagenet", 32, 0.05),
    ("mobilenet_v3_large", "imagenet", 32, 0.1),
    ("small_networks:densenet", "imagenet", 32, 0.5),
    ("small_networks:vgg", "imagenet", 32, 0.2),
    ("efficientnet_b0", "imagenet", 32, 0.1),
    ("resnext50_32x4d", "imagenet", 32, 0.1),
    ("convnext_tiny", "imagenet", 32, 0.05),
    ("googlenet", "imagenet", 64, 0.1),
    ("shufflenet_v2_x0_5", "imagenet", 32, 0.8),
    ("small_networks:vit", "imagenet", 32, 0.8),
]


def assert_contiguous(tensors: dict[str, torch.Tensor]) -> None:
    """See that strides are those of a new tensor, also where a side is 1 and they hardly matter."""
    for key, tensor in tensors.items():
        assert tensor.stride() == torch.empty(tensor.shape, device="meta").stride(), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stem", "side", "keep"),
    [*NETWORKS, *LARGE_NETWORKS],
)
def test_network_of_any_widths_comes_back_unchanged(
    name: str, stem: str, side: int, keep: float | None, tmp_path: Path
) -> None:
    saved = make_checkpoint(name, stem, side, keep)
    checkpoint.save(saved, tmp_path / "new folder" / "model.pth")
    builder = import_builder(name) if ":" in name else None
    loaded = checkpoint.load(tmp_path / "new folder" / "model.pth", builder)
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), saved.model.eval()(images))
    assert type(loaded.model) is type(build(ModelSpec(name), 5))
    assert not any(module.training for module in loaded.model.modules())
    for ours, theirs in zip(loaded.model.modules(), saved.model.modules(), strict=True):
        assert ours.extra_repr() == theirs.extra_repr()
    content = torch.load(tmp_path / "new folder" / "model.pth", weights_only=True)
    loaded.model.load_state_dict(content["state_dict"], strict=True)
    assert_contiguous(loaded.model.state_dict())
    for field in dataclasses.fields(saved):
        if field.name != "model":
            assert getattr(loaded, field.name) == getattr(saved, field.name)


def test_channels_last_network_is_saved_and_loaded_contiguous(tmp_path: Path) -> None:
    """Training lays convolutions out channels-last; a weights file is for any program."""
    saved = make_checkpoint("resnet18", "small", 28, 0.02)
    to_channels_last(saved.model)
    before = {key: tensor.clone() for key, tensor in saved.model.state_dict().items()}
    checkpoint.save(saved, tmp_path / "model.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    assert_contiguous(content["state_dict"])
    # A file of another program may hold any layout.
    content["state_dict"] = before
    torch.save(content, tmp_path / "other.pth")
    for file in ("model.pth", "other.pth"):
        state = checkpoint.load(tmp_path / file).model.state_dict()
        assert_contiguous(state)
        assert all(torch.equal(state[key], tensor) for key, tensor in before.items())
    assert saved.model.get_submodule("conv1").weight.is_contiguous(
        memory_format=torch.channels_last
    )


def test_views_take_no_more_of_the_file_than_their_values(tmp_path: Path) -> None:
    saved = copy.deepcopy(small_checkpoint())
    checkpoint.save(saved, tmp_path / "model.pth")
    conv: Any = saved.model.get_submodule("conv1")
    large = torch.zeros(100_000)
    large[: conv.weight.numel()] = conv.weight.detach().flatten()
    conv.weight.data = large[: conv.weight.numel()].view(conv.weight.shape)
    checkpoint.save(saved, tmp_path / "view.pth")
    assert (tmp_path / "view.pth").stat().st_size == (tmp_path / "model.pth").stat().st_size


def test_sizes_are_those_of_the_file(tmp_path: Path) -> None:
    saved = small_checkpoint()
    checkpoint.save(saved, tmp_path / "model.pth")
    size = (tmp_path / "model.pth").stat().st_size
    tensors = sum(tensor.nbytes for tensor in saved.model.state_dict().values())
    assert checkpoint.measure_file_bytes(saved) == size
    assert size - tensors <= checkpoint.bound_overhead_bytes(saved) < 3 * (size - tensors)


def test_file_holds_the_specification_without_the_path_of_weights(tmp_path: Path) -> None:
    saved = copy.copy(small_checkpoint())
    spec = ModelSpec("resnet18", "small", weights="/home/someone/teacher.pth")
    object.__setattr__(saved, "network", spec)
    checkpoint.save(saved, tmp_path / "model.pth")
    content = torch.load(tmp_path / "model.pth", weights_only=True)
    assert content["version"] == 3 and content["network"] == {
        "name": "resnet18",
        "stem": "small",
        "pretrained": False,
        "head": None,
        "source": "torchvision",
    }
    assert checkpoint.load(tmp_path / "model.pth").network == ModelSpec("resnet18", "small")


@pytest.mark.parametrize("file", sorted(SHIPPED.rglob("*.pth")), ids=lambda file: file.stem)
def test_shipped_weights_are_contiguous_and_their_recipes_valid(file: Path) -> None:
    loaded = compress.load(file)
    assert type(loaded.model) is torchvision.models.ResNet
    assert_contiguous(torch.load(file, weights_only=True)["state_dict"])
    assert_contiguous(loaded.model.state_dict())
    recipe = recipe_from_dict(loaded.origin["recipe"])
    assert recipe.student.name == loaded.network.name and recipe.data == loaded.data
    last = loaded.origin["stages"][-1]
    assert last["params"] == compress.summarize(loaded.model, loaded.input_size).params


@pytest.mark.slow
def test_loading_imports_neither_training_nor_pruning(tmp_path: Path) -> None:
    checkpoint.save(small_checkpoint(), tmp_path / "model.pth")
    torch.save(torch.ones(1, 3, 28, 28), tmp_path / "images.pt")
    code = f"""
        import sys, torch, compress
        loaded = compress.load({str(tmp_path / "model.pth")!r})
        images = torch.load({str(tmp_path / "images.pt")!r})
        torch.save(loaded.model(images).detach(), {str(tmp_path / "logits.pt")!r})
        assert "torchvision.models.resnet.ResNet" in str(type(loaded.model))
        ours = [name for name in sys.modules if name.startswith("compress.")]
        rooms = {{name.split(".")[1] for name in ours}}
        assert rooms == {{"models", "recipe", "runtime"}}, rooms
        assert "torch_pruning" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    with torch.no_grad():
        expected = small_checkpoint().model(torch.ones(1, 3, 28, 28))
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected)


def test_a_file_of_version_2_sees_whole_images_on_black(tmp_path: Path) -> None:
    content = checkpoint.to_dict(small_checkpoint())
    assert (content["crop_ratio"], content["background"]) == (1.0, "#ffffff")
    for key in ("crop_ratio", "background"):
        del content[key]
    loaded = checkpoint.from_dict(content | {"version": 2})
    assert (loaded.crop_ratio, loaded.background) == (1.0, "#000000")
    with pytest.raises(UserError, match="crop_ratio"):
        checkpoint.from_dict(content)


class ConvAct(nn.Module):
    """A wrapper with read-only properties for widths, as timm's ConvNormAct has them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3)

    @property
    def in_channels(self) -> int:
        return self.conv.in_channels

    @property
    def out_channels(self) -> int:
        return self.conv.out_channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).relu()  # type: ignore[no-any-return]


class Custom(nn.Module):
    """A user's network."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvAct(3, 24), ConvAct(24, 24), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(24, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))  # type: ignore[no-any-return]


def test_custom_network_with_width_properties_comes_back_unchanged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = prune(Custom(num_classes=5).eval(), torch.zeros(1, 3, 28, 28), 2000)
    small = small_checkpoint()
    saved = Checkpoint(
        model, ModelSpec("mine:net"), small.classes, (3, 28, 28), small.mean, small.std, "made up"
    )
    checkpoint.save(saved, tmp_path / "model.pth")
    widths = torch.load(tmp_path / "model.pth", weights_only=True)["widths"]
    assert widths.keys() == {"features.0.conv", "features.1.conv", "head"}
    assert widths["features.0.conv"]["out_channels"] < 24
    loaded = checkpoint.load(tmp_path / "model.pth", builder=Custom)
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model(images))
    assert type(loaded.model) is Custom


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("no")


def test_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    checkpoint.save(small_checkpoint(), path)
    before = path.read_bytes()
    broken = copy.copy(small_checkpoint())
    object.__setattr__(broken, "origin", {"a": Unpicklable()})
    with pytest.raises(RuntimeError, match="no"):
        checkpoint.save(broken, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_half_way(data: Any, file: Any) -> None:
    buffer = io.BytesIO()
    TORCH_SAVE(data, buffer)
    file.write(buffer.getvalue()[: buffer.tell() // 2])
    file.flush()
    die()


TORCH_SAVE = torch.save
MOMENTS = {
    "torch.save": die_half_way,
    "os.fsync": die,
    "pathlib.Path.replace": die,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_save_leaves_the_old_file_complete(
    moment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "model.pth"
    write_tensors({"a": "old" * 1_000_000}, path)
    writer = os.fork()
    if writer == 0:
        monkeypatch.setattr(moment, MOMENTS[moment])
        write_tensors({"a": "new" * 1_000_000}, path)
        os._exit(0)
    _, status = os.waitpid(writer, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert read_tensors(path) == {"a": "old" * 1_000_000}
    # The remainder does not keep another save from succeeding.
    write_tensors({"a": "new"}, path)
    assert read_tensors(path) == {"a": "new"}
