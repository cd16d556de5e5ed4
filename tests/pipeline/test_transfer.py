"""Transfer learning: a frozen backbone stays the same to the bit.

Meanwhile, a head of the recipe's learns.
"""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import torchvision
from tiny import Tiny

import compress
from compress.models.build import build

RECIPE = """
data = "folder:{data}"
image_size = 16
max_images = 96
budget = "5M"
batch_size = 32

[teacher]
name = "tinynets:teacher"

[student]
name = "shufflenet_v2_x0_5"
pretrained = true
head = [8]

[[stages]]
kind = "teach"
epochs = 1
optimizer = "adamw"
lr = 5e-3

[[stages]]
kind = "distill"
epochs = 1
lr = 0.005
ema = 0.9
{freeze}
"""


@pytest.fixture
def pretrained(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Replace the weights to be downloaded by random ones.

    They have running statistics of their own.
    """
    torch.manual_seed(3)
    whole = torchvision.models.shufflenet_v2_x0_5(weights=None)
    whole(torch.randn(8, 3, 64, 64))
    stored = io.BytesIO()
    torch.save(whole.state_dict(), stored)
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url",
        lambda *_, **__: torch.load(io.BytesIO(stored.getvalue()), weights_only=True),
    )
    return whole.state_dict()


@pytest.mark.slow
def test_only_the_head_learns(
    pretrained: dict[str, torch.Tensor], tiny: Tiny, tmp_path: Path
) -> None:
    recipe = tmp_path / "transfer.toml"
    recipe.write_text(RECIPE.format(data=tiny.data, freeze='freeze = "backbone"'))
    kept = compress.load(compress.run(str(recipe), out=tmp_path / "run").model)
    after = kept.model.state_dict()
    backbone = {key for key in after if not key.startswith("fc.")}
    assert backbone == {key for key in pretrained if not key.startswith("fc.")}
    assert [key for key in backbone if not torch.equal(after[key], pretrained[key])] == []
    # The run's seed: gives the head before training.
    torch.manual_seed(0)
    before = build(kept.network, len(kept.classes)).state_dict()
    assert not any(torch.equal(after[key], before[key]) for key in after if key.startswith("fc."))


def test_without_freeze_all_of_it_learns(
    pretrained: dict[str, torch.Tensor], tiny: Tiny, tmp_path: Path
) -> None:
    """Otherwise, the test above would prove nothing."""
    recipe = tmp_path / "transfer.toml"
    recipe.write_text(RECIPE.format(data=tiny.data, freeze=""))
    after = compress.load(compress.run(str(recipe), out=tmp_path / "run").model).model.state_dict()
    unchanged = [
        key
        for key in after
        if not key.startswith("fc.") and torch.equal(after[key], pretrained[key])
    ]
    assert unchanged == []
