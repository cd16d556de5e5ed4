"""Stages: ranking of channels, widths, and mirrored images, as the recipe says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from tiny import SIDE, Tiny
from torch import Tensor, nn

from compress.pipeline.context import StageContext
from compress.pipeline.events import RunEvents
from compress.pipeline.plan import make_plan
from compress.pipeline.stages import STAGES, run_stage
from compress.pruning.pruner import prune
from compress.recipe.budget import Limits
from compress.recipe.load import load_recipe
from compress.recipe.stages import STAGE_TYPES, Prune, Train

# Parameters of the tiny student with half of its channels.
HALF = 3_820


@pytest.fixture
def ctx(tiny: Tiny, tmp_path: Path) -> StageContext:
    """Return the context of the tiny recipe's last cut, with `HALF` as its target."""
    plan = make_plan(load_recipe(str(tiny.recipe)))
    step = replace(plan.steps[4], target=Limits(HALF))
    return StageContext(plan, step, tmp_path / "state", tmp_path, RunEvents())


def run(model: nn.Module, stage: Prune | Train, ctx: StageContext) -> nn.Module:
    step = replace(ctx.step, kind=stage.kind, stage=stage)
    return run_stage(model, replace(ctx, step=step)).model


def student(a: int = 16, b: int = 32, c: int = 32) -> nn.Sequential:
    """Return the tiny student, or a narrower one."""
    torch.manual_seed(0)
    blocks = []
    for inner, outer, stride in ((3, a, 1), (a, b, 2), (b, c, 2)):
        conv = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        blocks += [conv, nn.BatchNorm2d(outer), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 4)).eval()


def widths(model: nn.Module) -> list[int]:
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_every_kind_of_stage_has_keys_and_a_function() -> None:
    assert STAGES.keys() == STAGE_TYPES.keys()


def test_a_network_that_fits_already_is_left_as_it_is(ctx: StageContext) -> None:
    """Channels are coarse: one round may end below the next round's target."""
    model = student(6, 10, 10)
    assert run(model, Prune(samples=64), ctx) is model


@pytest.mark.parametrize(("importance", "keeps_silent"), [("taylor", False), ("magnitude", True)])
def test_channels_are_ranked_by_the_importance_of_the_stage(
    ctx: StageContext, importance: str, keeps_silent: bool
) -> None:
    """Every other channel has large weights, but no effect."""
    model = student()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data[1::2] *= 10
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[1::2] = module.bias.data[1::2] = 0
    pruned = run(model, Prune(importance=importance, samples=64), ctx)
    norms = [module for module in pruned.modules() if isinstance(module, nn.BatchNorm2d)]
    silent = (torch.cat([norm.weight for norm in norms]) == 0).float().mean().item()
    assert silent > 0.5 if keeps_silent else silent == 0


def test_widths_are_multiples_if_the_stage_says_so(ctx: StageContext) -> None:
    stages = (Prune(importance="magnitude", samples=64, round_to=step) for step in (1, 8))
    fine, coarse = (widths(run(student(), stage, ctx)) for stage in stages)
    assert any(width % 8 for width in fine) and coarse == [8, 16, 16]


def test_a_layer_that_earlier_rounds_have_narrowed_is_spared(ctx: StageContext) -> None:
    model, ctx = student(b=16), replace(ctx, original=student())
    spared = widths(run(model, Prune(importance="magnitude", samples=64), ctx))
    assert spared[1] > widths(prune(model, torch.zeros(1, 3, SIDE, SIDE), HALF))[1]


@pytest.mark.parametrize("mirrors", [True, False])
def test_images_are_mirrored_where_the_data_or_the_stage_says_so(
    ctx: StageContext, tmp_path: Path, mirrors: bool
) -> None:
    ctx = replace(ctx, mirrors=mirrors)

    def first_layer(flip: Literal["auto", True, False]) -> Tensor:
        """Return the first layer of the tiny student after an epoch."""
        stage = Train(kind="finetune", epochs=1, lr=0.01, flip=flip)
        trained = run(student(), stage, replace(ctx, state=tmp_path / f"{flip}.state"))
        return next(trained.parameters()).detach()

    auto, always, never = map(first_layer, ("auto", True, False))
    assert torch.equal(auto, always) == mirrors
    assert torch.equal(auto, never) != mirrors
