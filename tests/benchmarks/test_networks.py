"""benchmarks/networks.py on a sample of networks of all families."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

SAMPLE = (
    *("timm:resnet18", "timm:mobilenetv3_small_100", "timm:regnety_002", "timm:repvgg_a0"),
    *("timm:convnext_atto", "timm:efficientvit_b0", "timm:vit_tiny_patch16_224"),
    *("timm:edgenext_xx_small", "timm:levit_128s", "timm:mobilevit_xxs", "timm:ghostnet_050"),
    "shufflenet_v2_x0_5",
)


@pytest.fixture
def networks(scripts: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    module = importlib.import_module("networks")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(module, "PAGE", tmp_path / "networks.md")
    (tmp_path / "results").mkdir()
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_network_is_pruned_saved_and_loaded(networks: Any, name: str) -> None:
    size = next(size for each, _, size in networks.list_networks() if each == name)
    found = networks.try_network(name, size)
    assert "error" not in found
    assert found["params"] <= found["full"] // 2
    assert found["difference"] == 0 and found["macs_error"] <= 0.01


def test_the_benchmark_has_sixty_and_twenty_networks(networks: Any) -> None:
    names = [name for name, _, _ in networks.list_networks()]
    assert len(set(names)) == 80 and sum(name.startswith("timm:") for name in names) == 60
    assert set(names) >= set(SAMPLE)


def test_a_failure_is_a_row_with_its_reason(networks: Any) -> None:
    found = {"error": "prune: error: layer 'a' cannot be pruned"}
    (networks.RESULTS / "timm-resnet18.json").write_text(networks.json.dumps(found))
    good = {"full": 9, "params": 4, "uncut": "a, b, c", "difference": 0.0, "macs_error": 0.0}
    (networks.RESULTS / "resnet18.json").write_text(networks.json.dumps(good))
    page = networks.make_page()
    assert "| refused | prune: error: layer 'a' cannot be pruned |" in page
    assert "4 of 9" in page and "`a`, `b` and 1 more" in page
    assert "0 of 1 of timm, 1 of 1 of torchvision" in page
