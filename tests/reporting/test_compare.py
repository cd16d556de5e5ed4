"""Weights files side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import FILES, Tiny

from compress.models import checkpoint
from compress.models.cost import measure_cost
from compress.pruning.prune_file import prune_file
from compress.recipe.budget import parse_budgets
from compress.reporting.compare import compare_models
from compress.reporting.evaluation import score_test_split
from compress.runtime.errors import UserError


@pytest.mark.slow
def test_report_has_size_latency_and_accuracy_of_each_file(weights: Path, tmp_path: Path) -> None:
    whole = checkpoint.load(weights)
    dense, sparse = tmp_path / "dense.pth", tmp_path / "sparse.pth"
    prune_file(whole, parse_budgets({"budget": "50k"}), dense)
    prune_file(whole, parse_budgets({"budget": "50k"}), sparse, mode="weights")
    reports = compare_models([weights, dense, str(sparse)])
    assert [report.file for report in reports] == [weights, dense, sparse]
    assert [report.network for report in reports] == ["resnet18"] * 3
    assert [report.sparse for report in reports] == [False, False, True]
    assert [report.file_bytes for report in reports] == [
        file.stat().st_size for file in (weights, dense, sparse)
    ]
    full, small, zeroed = (report.cost for report in reports)
    assert full == measure_cost(whole.model, (3, 16, 16))
    assert 0.99 * 50_000 <= small.params <= 50_000 == zeroed.params
    # Zeros are multiplied too.
    assert small.macs < full.macs == zeroed.macs
    for report in reports:
        correct, total = score_test_split(checkpoint.load(report.file))
        assert report.test == int(correct.sum()) / int(total.sum())
        assert report.latency > 0


def test_custom_network_needs_its_builder(tiny: Tiny, finished: Path) -> None:
    file = finished / FILES[0]
    with pytest.raises(UserError, match=r"'tinynets:teacher'"):
        compare_models([file])
    (report,) = compare_models([file], builder="tinynets:teacher")
    assert report.network == "tinynets:teacher" and 0 <= report.test <= 1


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pth: no such file"):
        compare_models([tmp_path / "none.pth"])
