"""Networks of three channels folded to one: the same logits for grey images, or a refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_checkpoints import make_checkpoint, small_checkpoint
from tiny import Compress
from torch import nn

import compress
from compress.models.checkpoint import Checkpoint
from compress.models.grey import fold_grey
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def plain_network(seed: int = 0, **options: Any) -> Checkpoint:
    """Return a network with one convolution of these options, of 12×12 pixels."""
    torch.manual_seed(seed)
    conv = nn.Conv2d(3, 6, 3, **options)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    model(torch.zeros(1, 3, 12, 12))
    spec = ModelSpec("mine:net")
    return Checkpoint(model.eval(), spec, ("a", "b", "c", "d"), (3, 12, 12), MEAN, STD, "made up")


def logits(checkpoint: Checkpoint, images: torch.Tensor) -> torch.Tensor:
    """Return the logits of grey images (B, 1, H, W) with values from 0 to 1."""
    channels = checkpoint.input_size[0]
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (checkpoint.mean, checkpoint.std))
    with torch.inference_mode():
        return checkpoint.model((images.expand(-1, channels, -1, -1) - mean) / std)


def assert_same(checkpoint: Checkpoint, seed: int = 3) -> Checkpoint:
    grey, difference = fold_grey(checkpoint)
    images = torch.rand(4, 1, *checkpoint.input_size[1:], generator=torch.manual_seed(seed))
    expected = logits(checkpoint, images)
    largest = (logits(grey, images) - expected).abs().max() / expected.abs().max()
    assert grey.input_size == (1, *checkpoint.input_size[1:]) and len(grey.mean) == 1
    assert difference <= 1e-5 and largest <= 1e-5
    assert checkpoint.input_size[0] == 3, "the checkpoint must not change"
    return grey


@given(
    mean=st.floats(0, 1),
    std=st.tuples(*[st.floats(0.05, 1)] * 3),
    padding=st.sampled_from([0, 1, 2, "same", "valid"]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_equal_means_fold_exactly_with_any_padding(
    mean: float, std: tuple[float, float, float], padding: int | str, seed: int
) -> None:
    checkpoint = plain_network(seed, padding=padding, bias=seed % 2 == 0)
    assert_same(replace(checkpoint, mean=(mean,) * 3, std=std), seed)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "valid"},
        {"stride": 2},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": 2, "padding_mode": "circular"},
    ],
)
def test_a_bias_takes_the_difference_of_means(options: dict[str, Any]) -> None:
    assert_same(plain_network(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": 1}, r"0\.485, 0\.456, 0\.406"),
        ({"padding": "same"}, r"different means"),
        ({"bias": False}, "no bias"),
        ({"groups": 3}, "three channels"),
    ],
)
def test_what_would_not_be_exact_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fold_grey(plain_network(**options))


class Skip(nn.Module):
    """Its input reaches the last layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.fc = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        colored = images * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
        return self.fc((self.conv(images) + colored).mean((2, 3)))  # type: ignore[no-any-return]


def test_an_input_that_other_layers_see_is_refused() -> None:
    checkpoint = replace(plain_network(), model=Skip(), mean=(0.5,) * 3)
    with pytest.raises(UserError, match="first convolution"):
        fold_grey(checkpoint)
    with pytest.raises(UserError, match="already"):
        fold_grey(fold_grey(replace(plain_network()))[0])


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "swin_t"])
@pytest.mark.slow
def test_networks_by_name_survive_saving(name: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(name, side=64)
    # The first layer of a transformer pads nothing.
    mean = MEAN if name == "swin_t" else (0.4, 0.4, 0.4)
    grey = assert_same(replace(checkpoint, mean=mean))
    compress.save(grey, tmp_path / "grey.pth")
    loaded, images = compress.load(tmp_path / "grey.pth"), torch.rand(2, 1, 64, 64)
    assert torch.equal(logits(loaded, images), logits(grey, images))


@pytest.mark.slow
def test_command_folds_and_the_result_is_pruned(run: Compress, tmp_path: Path) -> None:
    color, grey, small = (tmp_path / f"{name}.pth" for name in ("color", "grey", "small"))
    compress.save(replace(small_checkpoint(), mean=(0.3, 0.3, 0.3)), color)
    shown = run("to-grey", "-w", color, "--out", grey).out
    assert f"{grey}: " in shown and "parameters" in shown
    assert "already exists" in run("to-grey", "-w", color, "--out", grey, code=2).err
    assert "already" in run("to-grey", "-w", grey, "--out", small, code=2).err
    run("prune", "-w", grey, "--budget", "50%", "--out", small)
    assert compress.load(small).input_size == (1, 28, 28)
