"""``optimizer = "auto"``: Muon for small networks of convolutions, AdamW for others."""

from __future__ import annotations

import pytest
from torch import nn

from compress.models.build import build
from compress.recipe.model_spec import ModelSpec
from compress.recipe.stages import Train
from compress.training.optimizers import build_optimizer, settle_optimizer

STAGE = Train(kind="finetune", optimizer="auto", lr=0.1, epochs=1)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64)), "muon"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(64, 64)), "adamw"),
        (build(ModelSpec("resnet18"), 10), "adamw"),
        (build(ModelSpec("squeezenet1_1"), 10), "adamw"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)), "adamw"),
        (nn.Sequential(nn.ConvTranspose2d(3, 8, 3), nn.Linear(1, 1)), "adamw"),
    ],
    ids=["convolutions", "linear", "large", "not normalized", "logits", "transposed"],
)
def test_auto_depends_on_the_network(network: nn.Module, expected: str) -> None:
    settled = settle_optimizer(STAGE, network)
    assert settled.optimizer == expected
    rate = (settled.lr, settled.weight_decay)
    assert rate == ((0.1, 5e-4) if expected == "muon" else pytest.approx((0.002, 0.05)))


def test_frozen_parameters_do_not_count() -> None:
    body, head = nn.Conv2d(3, 64, 3), nn.Linear(64, 4)
    network = nn.Sequential(body, nn.BatchNorm2d(64), head)
    body.requires_grad_(False)
    assert settle_optimizer(STAGE, network).optimizer == "adamw"


def test_a_named_optimizer_is_kept() -> None:
    stage = Train(kind="finetune", optimizer="adamw", lr=1e-3, epochs=1)
    assert settle_optimizer(stage, nn.Conv2d(3, 8, 3)) == stage


def test_an_open_choice_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="settle"):
        build_optimizer(nn.Conv2d(3, 8, 3), nn.Module(), STAGE)
