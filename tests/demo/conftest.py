"""Small networks of a demo, and files in place of onnxruntime-web."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from odd_names import HOSTILE
from tiny import Tiny
from torch import nn

from compress.demo.web_runtime import FILES
from compress.deployment.description import Description
from compress.deployment.formats import get_format
from compress.deployment.prepare import prepare_network
from compress.models import checkpoint
from compress.models.build import import_builder
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec


@pytest.fixture(scope="session")
def networks(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A weights file, and an ONNX file that takes grey pixels and has odd names of classes."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    spec = ModelSpec("tinynets:student")
    model = import_builder(spec.name)(num_classes=4).train()
    with torch.no_grad():
        model(torch.randn(64, 3, 16, 16))
        # A level of a pixel is to be seen in the logits.
        model[-1].weight *= 30
    made = Checkpoint(
        model=model.eval(),
        network=spec,
        classes=("a", "b", "c", "d"),
        input_size=(3, 24, 24),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.25, 0.3),
        data="made up",
        crop_ratio=0.875,
        background="#2080f0",
    )
    checkpoint.save(made, folder / "model.pth")
    grey = replace(made, classes=HOSTILE, input_size=(3, 20, 20), crop_ratio=1.0, temperature=2.5)
    network, description = prepare_network(grey, uint8=True, grey=True)
    get_format("onnx").write(network, description, folder / "grey.onnx")
    return folder / "model.pth", folder / "grey.onnx"


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files called as those of onnxruntime-web."""
    folder = tmp_path_factory.mktemp("ort")
    for name in FILES:
        (folder / name).write_text(name)
    return folder


@pytest.fixture(scope="session")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file of a network that labels pixels."""
    path = tmp_path_factory.mktemp("maps") / "maps.onnx"
    one = (0.5,) * 3
    known = Description(
        classes=("a", "b"), input_size=(3, 8, 8), mean=one, std=one, labels="pixels"
    )
    get_format("onnx").write(nn.Conv2d(3, 2, 1).eval(), known, path)
    return path
