"""Weights files: networks of any widths come back as they were, and a save that fails or is killed loses nothing."""

from __future__ import annotations

import copy
import itertools
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from packed import packed, small
from torch import nn

from compress.models import checkpoint
from compress.models.checkpoint import Checkpoint
from compress.pruning.pruner import prune
from compress.recipe.model_spec import ModelSpec

# name, stem, side of the images, share of the parameters kept (None: not pruned)
NETWORKS = [
    ("resnet18", "small", 28, 0.02),
    ("resnet18", "half", 28, 0.5),
    ("resnet34", "small", 8, 0.02),
    ("resnet50", "imagenet", 32, 0.05),
    ("resnet101", "half", 28, 0.02),
    ("wide_resnet50_2", "half", 8, 0.02),
    ("mobilenet_v2", "imagenet", 32, 0.1),
    ("mobilenet_v3_small", "imagenet", 32, 0.2),
    ("mobilenet_v3_large", "imagenet", 32, 0.1),
    ("densenet121", "imagenet", 32, 0.1),
    ("vgg16_bn", "imagenet", 32, 0.02),
    ("efficientnet_b0", "imagenet", 32, 0.1),
    ("resnext50_32x4d", "imagenet", 32, 0.1),
    ("convnext_tiny", "imagenet", 32, 0.05),
    ("regnet_y_400mf", "imagenet", 32, 0.2),
    ("squeezenet1_1", "imagenet", 64, 0.3),
    ("googlenet", "imagenet", 64, 0.1),
    ("shufflenet_v2_x0_5", "imagenet", 32, 0.8),
    ("swin_t", "imagenet", 32, None),
    ("vit_b_16", "imagenet", 224, 0.1),
]


@pytest.mark.parametrize(("name", "stem", "side", "keep"), NETWORKS)
def test_a_network_of_any_widths_comes_back_as_it_was(
    name: str, stem: str, side: int, keep: float | None, tmp_path: Path
) -> None:
    kept = packed(name, stem, side, keep)
    checkpoint.save(kept, tmp_path / "deep" / "model.pth")
    loaded = checkpoint.load(tmp_path / "deep" / "model.pth")
    images = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), kept.model.eval()(images))
    assert type(loaded.model) is type(torchvision.models.get_model(name, weights=None))
    assert not any(module.training for module in loaded.model.modules())
    for mine, theirs in zip(loaded.model.modules(), kept.model.modules(), strict=True):
        assert mine.extra_repr() == theirs.extra_repr()
    state = torch.load(tmp_path / "deep" / "model.pth", weights_only=True)["state_dict"]
    loaded.model.load_state_dict(state, strict=True)
    assert (
        loaded.classes == kept.classes
        and loaded.input_size == kept.input_size
        and loaded.origin == kept.origin
    )
    assert (loaded.mean, loaded.std, loaded.data, loaded.network) == (
        kept.mean,
        kept.std,
        kept.data,
        kept.network,
    )


def test_loading_needs_neither_the_training_nor_the_pruning_code(tmp_path: Path) -> None:
    checkpoint.save(small(), tmp_path / "model.pth")
    torch.save(torch.ones(1, 3, 28, 28), tmp_path / "images.pt")
    code = f"""
        import sys, torch, compress
        kept = compress.load({str(tmp_path / "model.pth")!r})
        torch.save(kept.model(torch.load({str(tmp_path / "images.pt")!r})), {str(tmp_path / "logits.pt")!r})
        assert "torchvision.models.resnet.ResNet" in str(type(kept.model))
        rooms = ("training", "pipeline", "stages", "pruning", "distill", "data")
        ours = [m for m in sys.modules if m.startswith("compress.")]
        assert not [m for m in ours if m.split(".")[1] in rooms] and "torch_pruning" not in sys.modules, ours
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)
    with torch.no_grad():
        theirs, ours = (
            torch.load(tmp_path / "logits.pt").detach(),
            small().model(torch.ones(1, 3, 28, 28)),
        )
    torch.testing.assert_close(theirs, ours)


class Own(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(24, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))  # type: ignore[no-any-return]


def test_a_persons_own_network_loads_with_the_function_that_builds_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = prune(Own(num_classes=5).eval(), torch.zeros(1, 3, 28, 28), 400)
    kept = Checkpoint(
        model,
        ModelSpec("mine:net"),
        small().classes,
        (3, 28, 28),
        (0.5,) * 3,
        (0.5,) * 3,
        "made up",
    )
    checkpoint.save(kept, tmp_path / "model.pth")
    loaded = checkpoint.load(tmp_path / "model.pth", own=Own)
    images = torch.randn(2, 3, 28, 28)
    assert type(loaded.model) is Own and torch.equal(loaded.model(images), model(images))


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("no")


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    checkpoint.save(small(), path)
    before = path.read_bytes()
    broken = copy.copy(small())
    object.__setattr__(broken, "origin", {"a": Unpicklable()})
    with pytest.raises(RuntimeError, match="no"):
        checkpoint.save(broken, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_killed_save_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    for attempt in range(10):
        path.unlink(missing_ok=True)
        writer = os.fork()
        if writer == 0:
            for i in itertools.count():
                checkpoint.write_tensors({"a": f"{i % 10}" * 3_000_000}, path)
        try:
            while not path.exists():
                time.sleep(0.001)
            time.sleep(random.Random(attempt).uniform(0, 0.05))
        finally:
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
        text = checkpoint.read_tensors(path)["a"]
        assert len(text) == 3_000_000 and len(set(text)) == 1
