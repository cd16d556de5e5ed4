"""The default recipe on the published data set, as a newcomer runs it, on fewer images."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import pytest
import torch
from tiny import Compress

import compress

SYSTEM_COPY = Path("/usr/share/datasets/fashion-mnist")


def write_first_images(cache: Path, train: int, test: int) -> None:
    """Write the first images of the published files where torchvision looks for them."""
    raw = cache / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, count in (("train", train), ("t10k", test)):
        images = gzip.decompress((SYSTEM_COPY / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((SYSTEM_COPY / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
        header = images[:4] + struct.pack(">I", count) + images[8:16]
        content = header + images[16 : 16 + count * 28 * 28]
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(content)
        content = labels[:4] + struct.pack(">I", count) + labels[8 : 8 + count]
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(content)


@pytest.mark.slow
@pytest.mark.skipif(not SYSTEM_COPY.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_default_recipe_runs_on_fashion_mnist_and_its_model_predicts(
    run: Compress, tmp_path: Path
) -> None:
    write_first_images(tmp_path / "data", train=100, test=40)
    words = ("--budget", "100k", "--quick", "--epochs", 1, "--out", tmp_path / "run")
    shown = run("run", *words, env={"COMPRESS_DATA": str(tmp_path / "data")}).out
    assert "100,000" in shown and "\x1b" not in shown

    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    kinds = [stage["kind"] for stage in manifest["stages"]]
    assert kinds[:2] == ["teach", "distill"] and 2 <= kinds.count("prune") < kinds.count("finetune")
    assert all(0 <= stage["test"] <= 1 for stage in manifest["stages"])

    kept = compress.load(tmp_path / "run" / "model.pth")
    assert 99_000 <= compress.summarize(kept.model, kept.input_size).params <= 100_000
    assert kept.model(torch.zeros(1, *kept.input_size)).shape == (1, 10)
    examples = sorted((Path(__file__).parents[2] / "docs" / "images").glob("*.png"))
    predictions = list(compress.predict(kept, examples))
    assert len(predictions) == 10 and all(each.error is None for each in predictions)
