"""Modules as people pass them: wrapped, in half precision, with computed weights, or no modules."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import compress
from compress.models.plain_module import hold_copy, require_module, unwrap
from compress.runtime.errors import UserError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Any:
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))


class Named(Net):
    def forward(self, images: Tensor) -> Any:
        return {"features": images, "logits": super().forward(images)}


class Pair(Net):
    def forward(self, images: Tensor) -> Any:
        return images, super().forward(images)


IMAGES = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.compile, lambda net: torch.compile(nn.DataParallel(net))],
)
def test_wrappers_are_taken_off(wrap: Any) -> None:
    net = Net()
    assert unwrap(wrap(net)) is net
    assert type(compress.prune(wrap(net), IMAGES, "60%")) is Net


@pytest.mark.parametrize("kind", [Named, Pair])
def test_a_copy_returns_the_logits_alone_and_the_original_does_not(kind: type[Net]) -> None:
    net = kind().eval()
    assert torch.equal(hold_copy(net)(IMAGES), Net.forward(net, IMAGES))
    assert not isinstance(net(IMAGES), Tensor)


@pytest.mark.parametrize("kind", [Named, Pair])
def test_a_pruned_network_returns_what_it_did(kind: type[Net]) -> None:
    net = kind()
    pruned = compress.prune(net, IMAGES, "60%")
    assert type(pruned(IMAGES)) is type(net(IMAGES))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_copied_to_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    net = Net().to(dtype)
    assert hold_copy(net)(IMAGES).dtype == torch.float32
    assert net.head.weight.dtype == dtype
    saved = compress.save(net, tmp_path / "net.pth", classes=4, image_size=8)
    assert saved.model(IMAGES).dtype == torch.float32
    assert compress.prune(net, IMAGES, "60%").head.weight.dtype == dtype


def test_a_file_loads_with_a_wrapped_module(tmp_path: Path) -> None:
    net, path = Net().eval(), tmp_path / "net.pth"
    compress.save(nn.DataParallel(net), path, classes=4, image_size=8)
    for model in (Net(), nn.DataParallel(Net()), torch.compile(Net())):
        assert torch.equal(compress.load(path, model=model).model(IMAGES), net(IMAGES))


def make_script() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(Net().eval(), IMAGES)


def make_quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear})


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Net, r"Net\(…\)"),
        (lambda: "net.pth", r"compress\.load\(FILE\)\.model"),
        (lambda: Path("net.pth"), r"compress\.load\(FILE\)\.model"),
        (lambda: 3, "torch.nn.Module"),
        (make_script, "TorchScript"),
        (make_quantized, "before its quantization"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "one batch"),
    ],
)
def test_what_is_no_plain_module_is_refused_with_a_remedy(make: Any, word: str) -> None:
    for take in (lambda it: require_module(it, "it"), lambda it: compress.prune(it, IMAGES, "60%")):
        with pytest.raises(UserError, match=word) as refused:
            take(make())
        assert len(str(refused.value).splitlines()) == 1


def test_a_checkpoint_has_a_module(tmp_path: Path) -> None:
    saved = compress.save(Net(), tmp_path / "net.pth", classes=4, image_size=8)
    with pytest.raises(UserError, match=r"Checkpoint.*\.model"):
        compress.prune(saved, IMAGES, "60%")


def norm_old(layer: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return weight_norm(layer)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (norm_old, "remove_weight_norm"),
        (lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5), "prune.remove"),
        (parametrizations.weight_norm, "remove_parametrizations"),
        (parametrizations.spectral_norm, "remove_parametrizations"),
        (spectral_norm, "remove_spectral_norm"),
    ],
)
def test_computed_weights_are_named_with_what_makes_them_plain(change: Any, remedy: str) -> None:
    net = Net()
    change(net.conv)
    with pytest.raises(UserError, match=rf"conv.*{remedy}"):
        compress.prune(net, IMAGES, "60%")


@pytest.mark.parametrize("example", [(2, 3, 8, 8), IMAGES[0], IMAGES.numpy(), None])
def test_an_example_that_is_no_batch_is_refused(example: Any) -> None:
    with pytest.raises(UserError, match=r"example.*\(B, C, H, W\)"):
        compress.prune(Net(), example, "60%")


def test_inference_tensors_can_be_pruned() -> None:
    with torch.inference_mode():
        net = Net()
    assert type(compress.prune(net, IMAGES, "60%")) is Net
