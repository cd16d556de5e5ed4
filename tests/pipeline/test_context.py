"""The context of a stage."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import Tiny
from torch import Tensor, nn

from compress.pipeline.context import StageContext
from compress.pipeline.events import RunEvents
from compress.pipeline.plan import make_plan
from compress.recipe.load import load_recipe


class Constant(nn.Module):
    """Gives every class of every image the same logit."""

    def __init__(self, logit: float, classes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((classes,), logit))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


@pytest.mark.parametrize("logit", [0.0, math.nan, math.inf])
def test_logits_that_are_not_finite_have_no_accuracy(
    logit: float, tiny: Tiny, tmp_path: Path
) -> None:
    plan = make_plan(load_recipe(str(tiny.recipe)), "cpu")
    ctx = StageContext(plan, plan.steps[-1], tmp_path / "a.state", tmp_path, RunEvents())
    model = Constant(logit, len(plan.data.classes))
    for accuracy in (ctx.validate(model), ctx.estimate(model)):
        assert math.isfinite(accuracy) == math.isfinite(logit)


@pytest.mark.parametrize(("samples", "batch_size"), [(100, 64), (64, 64), (10, 64), (1, 1)])
def test_samples_are_as_many_as_asked_in_whole_batches(
    samples: int, batch_size: int, tiny: Tiny, tmp_path: Path
) -> None:
    plan = make_plan(load_recipe(str(tiny.recipe)), "cpu")
    ctx = StageContext(plan, plan.steps[-1], tmp_path / "a.state", tmp_path, RunEvents())
    taken = [len(batch.images) for batch in ctx.sample_batches(samples, batch_size)]
    assert samples <= sum(taken) < samples + batch_size and len(set(taken)) == 1
