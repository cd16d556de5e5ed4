"""Weights files side by side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny import Compress

from compress.models.checkpoint import load
from compress.models.cost import measure_cost
from compress.reporting.compare import compare_models
from compress.runtime.errors import UserError


@pytest.mark.slow
def test_dense_and_sparse_files_side_by_side(run: Compress, weights: Path, tmp_path: Path) -> None:
    dense, sparse = tmp_path / "dense.pth", tmp_path / "sparse.pth"
    run("prune", "-w", weights, "--budget", "50k", "--out", dense)
    run("prune", "-w", weights, "--budget", "50k", "--mode", "weights", "--out", sparse)
    shown = run("compare", dense, sparse, weights).out
    assert "50,000 not zero" in shown and len(re.findall(r"[\d.]+ ms", shown)) == 3
    small, zeroed, original = compare_models([dense, sparse, weights])
    # Zeros are multiplied as well.
    assert small.cost.macs < zeroed.cost.macs == original.cost.macs
    assert (small.sparse, zeroed.sparse, original.sparse) == (False, True, False)
    assert small.cost.params <= zeroed.cost.params == 50_000
    checkpoint = load(weights)
    assert original.cost == measure_cost(checkpoint.model, checkpoint.input_size)
    assert (original.file, original.file_bytes) == (weights, weights.stat().st_size)
    assert small.file_bytes < 0.02 * zeroed.file_bytes
    assert all(report.latency > 0 and 0 <= report.test <= 1 for report in (small, zeroed))


def test_a_custom_network_needs_its_builder(finished: Path) -> None:
    file = finished / "model.pth"
    [report] = compare_models([file], builder="tinynets:student")
    assert report.network == "tinynets:student" and report.cost.params <= 3000
    with pytest.raises(UserError, match="tinynets:student"):
        compare_models([file])


def test_a_missing_file_is_named(run: Compress, weights: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.pth"
    refused = run("compare", weights, missing, code=2)
    assert refused.err == f"error: {missing}: no such file\n" and refused.out == ""
