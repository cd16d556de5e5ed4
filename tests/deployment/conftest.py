"""A small network with its data, and files exported from it."""

from __future__ import annotations

import pytest
import torch
from exported_files import Exported
from tiny import CLASSES, Tiny

from compress.data.open_dataset import open_dataset
from compress.deployment.export import export
from compress.models import checkpoint
from compress.models.build import import_builder
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec


@pytest.fixture(scope="session")
def exported(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    builder = import_builder("tinynets:student")
    data = open_dataset(f"folder:{tiny.data}", image_size=16)
    network = ModelSpec("tinynets:student")
    model = builder(num_classes=4).train()
    with torch.no_grad():
        # Running statistics of their own, which fusing must not lose.
        model(torch.randn(64, 3, 16, 16) * 2 + 1)
    known = Checkpoint(model.eval(), network, CLASSES, (3, 16, 16), data.mean, data.std, data.name)
    weights = folder / "model.pth"
    checkpoint.save(known, weights)
    onnx = export(weights, builder=builder)
    pixels = export(weights, out=folder / "pixels.onnx", uint8=True, builder=builder)
    return Exported(weights, known, onnx, pixels)
