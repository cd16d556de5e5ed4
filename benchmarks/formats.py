"""Export networks of several families in every format, and compare the files with the networks.

    python -m venv formats && formats/bin/pip install -e '.[onnx,openvino,executorch,litert]'
    formats/bin/python benchmarks/formats.py                 # about an hour on two cores
    formats/bin/python benchmarks/formats.py --only litert   # formats, with commas
    formats/bin/python benchmarks/formats.py --networks resnet18,swin_t@224

Each network of torchvision has random weights and ten classes, takes pixels of 96×96 (`--uint8`),
and is compared on 64 random images. A cell is the largest difference of a logit, relative to the
largest logit; 1e-5 is allowed, or 1e-4 in logits. Prints the table of docs/deployment.md. For
speed: compress bench model.pth --to onnx,openvino,executorch,litert
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from compress.deployment.export import export, network_logits
from compress.deployment.formats import count_bytes
from compress.deployment.samples import random_samples
from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec
from compress.recipe.registry import EXPORT_FORMATS
from compress.reporting.tables import Table
from compress.reporting.units import format_bytes
from compress.runtime.errors import UserError

NETWORKS = (
    "resnet18 mobilenet_v2 mobilenet_v3_small efficientnet_b0 shufflenet_v2_x1_0 regnet_y_400mf"
)
NETWORKS += " densenet121 convnext_tiny vit_b_16@224 swin_t@224"


def make_network(name: str) -> Checkpoint:
    """Build a network with random weights; its batch norms have seen images."""
    name, _, side = name.partition("@")
    size = (3, int(side or 96), int(side or 96))
    torch.manual_seed(0)
    spec = ModelSpec(name)
    model = build(spec, 10, input_size=size).train()
    with torch.no_grad():
        for module in model.modules():
            # A head that starts at zero would leave nothing to compare.
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.02)
        for _ in range(20):
            model(torch.rand(8, *size) * 4 - 2)
    classes = tuple("abcdefghij")
    one = (0.5,) * 3
    return Checkpoint(model.eval(), spec, classes, size, one, one, "random")


def describe_export(known: Checkpoint, name: str, folder: Path) -> str:
    """Export a network, and say how it went."""
    out = folder / f"model{EXPORT_FORMATS.load(name).suffix}"
    try:
        result = export(known, name, out, uint8=True)
    except UserError as error:
        return str(error).removeprefix(f"{out}: ")
    largest = float(network_logits(known, random_samples(known, 64)).abs().max())
    return f"{result.max_difference / largest:.0e}, {format_bytes(count_bytes(out))}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(EXPORT_FORMATS.builtin))
    parser.add_argument("--networks", default=",".join(NETWORKS.split()))
    words = parser.parse_args()
    formats = words.only.split(",")
    rows = []
    for network in words.networks.split(","):
        known = make_network(network)
        cells = []
        for name in formats:
            with TemporaryDirectory() as folder:
                cells.append(describe_export(known, name, Path(folder)))
            print(f"{network}, {name}: {cells[-1]}", flush=True)
        rows.append([network.partition("@")[0], *cells])
    print(Table(["network", *formats], rows, left=1).as_markdown())


if __name__ == "__main__":
    main()
