"""docs/ensemble.py: the networks of several weights files as one."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

import compress

WEIGHTS = Path(__file__).parents[1] / "weights"
FILES = (WEIGHTS / "fashion-mnist-100k.pth", WEIGHTS / "sweep" / "fashion-mnist-10k.pth")


def test_logits_are_the_mean_of_those_of_the_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    example = importlib.import_module("ensemble")
    monkeypatch.setattr(example, "FILES", FILES)
    images = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        one, other = (compress.load(file).model(images) for file in FILES)
        logits = example.ensemble(10).eval()(images)
    torch.testing.assert_close(logits, (one + other) / 2)
    assert not torch.equal(one, other)
