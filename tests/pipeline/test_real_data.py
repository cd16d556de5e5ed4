"""The default recipe on real data, shortened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import compress

SYSTEM_COPY = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not SYSTEM_COPY.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_the_default_recipe_runs_on_fashion_mnist_and_its_model_predicts(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "compress",
        "run",
        "--budget",
        "100k",
        "--quick",
        "--max-images",
        "1000",
    ]
    environment = os.environ | {"COMPRESS_DATA": str(tmp_path / "data")}
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Total params" in done.stdout and "\x1b" not in done.stdout

    manifest = json.loads((tmp_path / "run" / "run.json").read_text())
    kinds = [stage["kind"] for stage in manifest["stages"]]
    assert kinds[:2] == ["teach", "distill"] and 2 <= kinds.count("prune") < kinds.count("finetune")
    assert all(0 <= stage["test"] <= 1 for stage in manifest["stages"])

    kept = compress.load(tmp_path / "run" / "model.pth")
    assert 99_000 <= compress.summarize(kept.model, kept.input_size).params <= 100_000
    assert kept.model(torch.zeros(1, *kept.input_size)).shape == (1, 10)
    examples = sorted((Path(__file__).parents[2] / "docs" / "images").glob("*.png"))
    assert [p.error for p in compress.predict(kept, examples)] == [None] * len(
        examples
    ) and examples
