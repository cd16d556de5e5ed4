"""Depth: which blocks are residual, which go, and that a network without them is still itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Interrupted, InterruptIn, Tiny
from torch import Tensor, nn

import compress
from compress.models import checkpoint
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.models.layers import removed_blocks
from compress.pruning.depth import (
    choose_blocks,
    find_blocks,
    remove_the_same,
    without_blocks,
)
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError
from compress.training.events import Events

BLOCKS = ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
EXAMPLE = torch.zeros(1, 3, 32, 32)


def make_checkpoint(model: nn.Module) -> Checkpoint:
    spec, size = ModelSpec("resnet18"), (3, 32, 32)
    return Checkpoint(model, spec, tuple("abcd"), size, (0.5,) * 3, (0.5,) * 3, "made up")


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=4).eval()


class Gate(nn.Module):
    """Keeps the shape of its input and has weights, but is no residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid())

    def forward(self, images: Tensor) -> Tensor:
        return images * self.body(images)


class Doubled(nn.Module):
    """A residual block; two branches that share nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 3, 3, 1, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return images + self.left(images) * self.right(images)


def test_residual_blocks_are_found_whatever_their_class(resnet18: nn.Module) -> None:
    assert find_blocks(resnet18, EXAMPLE) == BLOCKS
    mine = nn.Sequential(Gate(), nn.Sequential(Doubled()), nn.Conv2d(3, 3, 3, 1, 1))
    assert find_blocks(mine, EXAMPLE) == ["1.0"]
    assert find_blocks(torchvision.models.vgg11_bn(num_classes=4), EXAMPLE) == []


def test_a_block_that_runs_twice_stays() -> None:
    block = Doubled()
    assert find_blocks(nn.Sequential(block, nn.ReLU(), block), EXAMPLE) == []


@pytest.mark.slow
@given(st.sets(st.sampled_from(BLOCKS)))
@settings(max_examples=8, deadline=None)
def test_a_network_without_blocks_comes_back_from_its_file(names: set[str]) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4).eval()
    shorter = without_blocks(model, sorted(names))
    pruned = compress.prune(shorter, EXAMPLE, "10%")
    saved = make_checkpoint(pruned)
    loaded = checkpoint.from_dict(checkpoint.to_dict(saved)).model
    images = torch.rand(2, 3, 32, 32)
    assert removed_blocks(loaded) == sorted(names) and removed_blocks(model) == []
    assert torch.equal(loaded(images), pruned(images))
    assert measure_cost(loaded, (3, 32, 32)) == measure_cost(pruned, (3, 32, 32))


@pytest.mark.parametrize("path", ["", "layer9", "layer1.0.", "../layer1"])
def test_a_file_that_names_no_block_is_refused(path: str, resnet18: nn.Module) -> None:
    plain = checkpoint.to_dict(make_checkpoint(resnet18)) | {"removed": [path]}
    with pytest.raises(UserError, match="removed"):
        checkpoint.from_dict(plain)


def test_blocks_go_as_long_as_the_loss_falls(resnet18: nn.Module) -> None:
    """The loss is lower without layer3.1, lower still without layer1.0, and higher without others.

    Without layer4.1 it would be lowest, but the rest cannot be cut to the target.
    """
    lines, events = list[str](), Events()
    events.log = lines.append  # type: ignore[method-assign]
    worth = {"layer3.1": -2.0, "layer1.0": -1.0, "layer4.1": -9.0}

    def cut(model: nn.Module) -> nn.Module:
        if "layer4.1" in removed_blocks(model):
            raise UserError("out of reach")
        return model

    def loss(model: nn.Module) -> float:
        return 5 + sum(worth.get(name, 1.0) for name in removed_blocks(model))

    chosen = choose_blocks(resnet18, EXAMPLE, cut, loss, events)
    assert removed_blocks(chosen) == ["layer1.0", "layer3.1"]
    assert ["layer3.1" in lines[0], "layer1.0" in lines[1], len(lines)] == [True, True, 2]
    assert removed_blocks(resnet18) == []
    same = remove_the_same(resnet18, chosen)
    assert removed_blocks(same) == ["layer1.0", "layer3.1"]
    assert remove_the_same(same, chosen) is same


NETWORK = """
from torch import nn
from torchvision.models.resnet import BasicBlock


def residual(num_classes):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        BasicBlock(16, 16),
        BasicBlock(16, 16),
        nn.Conv2d(16, 32, 3, stride=2),
        BasicBlock(32, 32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )
"""


@pytest.mark.slow
def test_a_run_that_is_cut_short_removes_the_same_blocks(tiny: Tiny, tmp_path: Path) -> None:
    (tiny.root / "blocknets.py").write_text(NETWORK)
    recipe = {
        "data": f"folder:{tiny.data}",
        "image_size": 16,
        "budget": 2_000,
        "depth": True,
        "teacher": {"name": "blocknets:residual"},
        "student": {"name": "blocknets:residual"},
        "stages": [
            {"kind": "distill", "steps": 12},
            {"kind": "prune"},
            {"kind": "finetune", "steps": 8},
            {"kind": "prune"},
        ],
    }
    whole = compress.run(recipe, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        compress.run(recipe, out=tmp_path / "cut", callbacks=InterruptIn("finetune", 1))
    resumed = compress.run(recipe, out=tmp_path / "cut")
    found, again = whole.load().model, resumed.load().model
    assert removed_blocks(found) == removed_blocks(again) != []
    assert whole.results[-1].params == measure_cost(found, (3, 16, 16)).params <= 2_000
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(found(images), again(images))
