"""A stage does what its recipe says: what a cut ranks channels by, the widths it leaves, what it spares; and whether
images are mirrored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from tiny import SIDE, Tiny
from torch import Tensor, nn

from compress.pipeline.context import StageContext
from compress.pipeline.plan import make_plan
from compress.pipeline.stages import finetune_stage, prune_stage
from compress.pruning.pruner import prune
from compress.recipe.budget import Limits
from compress.recipe.load import load_recipe
from compress.recipe.registry import ImportanceName
from compress.recipe.schema import Prune, Train
from compress.training.events import Events

HALF = 3_820  # parameters of the tiny student with half of its channels


@pytest.fixture
def ctx(tiny: Tiny, tmp_path: Path) -> StageContext:
    plan = make_plan(load_recipe(str(tiny.recipe)))
    state, target = tmp_path / "state", Limits(HALF)
    return StageContext(
        plan.recipe, plan.data, plan.device, Events(), state, tmp_path, target=target, final=SIDE
    )


def student(a: int = 16, b: int = 32, c: int = 32) -> nn.Sequential:
    """The tiny student, or one that is narrower."""
    torch.manual_seed(0)
    blocks = []
    for inner, outer, stride in ((3, a, 1), (a, b, 2), (b, c, 2)):
        blocks += [
            nn.Conv2d(inner, outer, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outer),
            nn.ReLU(),
        ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 4)).eval()


def widths(model: nn.Module) -> list[int]:
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_a_network_that_fits_already_is_left_as_it_is(ctx: StageContext) -> None:
    """Channels are coarse steps: one round may land below the next one's target."""
    model = student(6, 10, 10)
    assert prune_stage(model, Prune(samples=64), ctx) is model


def test_channels_are_ranked_by_the_importance_of_the_stage(ctx: StageContext) -> None:
    """Every other channel has large weights, and carries nothing."""
    model = student()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data[1::2] *= 10
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[1::2] = module.bias.data[1::2] = 0

    def silent(importance: ImportanceName) -> float:
        pruned = prune_stage(model, Prune(importance=importance, samples=64), ctx)
        scales = torch.cat(
            [norm.weight for norm in pruned.modules() if isinstance(norm, nn.BatchNorm2d)]
        )
        return (scales == 0).float().mean().item()

    assert silent("taylor") == 0 and silent("magnitude") > 0.5


def test_widths_are_multiples_if_the_stage_says_so(ctx: StageContext) -> None:
    stages = (Prune(importance="magnitude", samples=64, round_to=multiple) for multiple in (1, 8))
    fine, coarse = (widths(prune_stage(student(), stage, ctx)) for stage in stages)
    assert any(width % 8 for width in fine) and coarse == [8, 16, 16]


def test_a_layer_that_earlier_rounds_have_narrowed_is_spared(ctx: StageContext) -> None:
    model, ctx = student(b=16), replace(ctx, uncut=student())
    spared = widths(prune_stage(model, Prune(importance="magnitude", samples=64), ctx))
    assert spared[1] > widths(prune(model, torch.zeros(1, 3, SIDE, SIDE), HALF))[1]


@pytest.mark.parametrize("mirrors", [True, False])
def test_images_are_mirrored_where_the_data_set_has_mirror_images_or_where_the_stage_says_so(
    ctx: StageContext, tmp_path: Path, mirrors: bool
) -> None:
    ctx = replace(ctx, data=replace(ctx.data, mirrors=mirrors))

    def learned(flip: Literal["auto", True, False]) -> Tensor:
        """The first layer of the tiny student after an epoch."""
        stage = Train(kind="finetune", epochs=1, lr=0.01, flip=flip)
        model = finetune_stage(student(), stage, replace(ctx, state=tmp_path / f"{flip}.state"))
        return next(model.parameters()).detach()

    auto, always, never = map(learned, ("auto", True, False))
    assert torch.equal(auto, always) == mirrors
    assert torch.equal(auto, never) != mirrors
