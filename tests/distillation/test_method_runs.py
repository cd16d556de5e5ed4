"""Every distillation method in a whole run on tiny data, and recipes that a plan refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Interrupted, Tiny

import compress
from compress.models.build import build
from compress.pipeline.events import RunEvents
from compress.pipeline.plan import make_plan
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec
from compress.recipe.registry import METHODS
from compress.runtime.errors import UserError

STAGES = """
[[stages]]
kind = "teach"
epochs = 1

[[stages]]
kind = "distill"
epochs = 2
scale = 0.5
{method}

[[stages]]
kind = "prune"
samples = 32

[[stages]]
kind = "finetune"
epochs = 2
lr = 0.05
ema = 0.9
{method}
"""


def recipe_of(tiny: Tiny, file: Path, method: str) -> Path:
    file.write_text(
        tiny.recipe.read_text().partition("[[stages]]")[0] + STAGES.format(method=method)
    )
    return file


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in METHODS.builtin if m != "channelwise"])
def test_a_run_with_every_method(tiny: Tiny, tmp_path: Path, method: str) -> None:
    """Projections are trained for the student's widths before and after pruning, and none is left
    in the final model."""
    recipe = recipe_of(tiny, tmp_path / "recipe.toml", f'method = "{method}"')
    result = compress.run(str(recipe), out=tmp_path / "run", max_images=72)
    assert [result.name for result in result.results] == ["teach", "distill", "prune", "finetune"]
    saved = torch.load(result.model, weights_only=True)["state_dict"]
    assert saved.keys() == build(ModelSpec("tinynets:student"), 4).state_dict().keys()
    assert result.results[-1].params <= 3000


class InterruptAfter(RunEvents):
    """Interrupts a run after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_projections_and_phases(
    tiny: Tiny, tmp_path: Path
) -> None:
    for method in ("overhaul", "stagewise"):
        recipe = recipe_of(tiny, tmp_path / f"{method}.toml", f'method = "{method}"')
        whole = compress.run(str(recipe), out=tmp_path / f"{method}-whole", max_images=72)
        # After the first epoch of `distill`, then of `finetune`.
        for _ in range(2):
            events = InterruptAfter(2)
            with pytest.raises(Interrupted):
                compress.run(str(recipe), out=tmp_path / method, max_images=72, events=events)
        again = compress.run(str(recipe), out=tmp_path / method, max_images=72)
        a, b = (
            torch.load(result.model, weights_only=True)["state_dict"] for result in (whole, again)
        )
        assert all(torch.equal(a[key], b[key]) for key in a)


# Keys of a stage, and what the message names.
WRONG = [
    ('method = "fitnet"', "method.*did you mean 'fitnets'"),
    ('method = "fitnets"\ntaps = ["0", "7"]', "taps: .*teacher.*'7'"),
    ('method = "attention"\ntaps = ["0=0.9"]', r"taps: .*student.*'0\.9'.*did you mean '0\."),
    ('method = "fsp"\ntaps = ["1"]', "taps: method 'fsp'.*'1'"),
    ('method = "stagewise"\ntaps = ["0.1", "0.2"]', r"taps: .*nothing to train.*'0\.2'"),
    ('method = "attention"\ncompile = true', "method 'attention'.*remove compile"),
    ('taps = ["0"]', "method 'kd'.*remove taps"),
    ("beta = 2.0", "method 'kd'.*remove beta"),
    ('method = "labels"\nalpha = 0.3', "method 'labels'.*remove alpha"),
]


@pytest.mark.parametrize(("keys", "message"), WRONG)
def test_unsuitable_keys_are_refused_before_training(
    tiny: Tiny, tmp_path: Path, keys: str, message: str
) -> None:
    recipe = recipe_of(tiny, tmp_path / "recipe.toml", keys)
    with pytest.raises(UserError, match=message) as refused:
        make_plan(load_recipe(str(recipe)))
    assert len(str(refused.value).splitlines()) == 1


def test_a_plan_without_a_teacher_refuses_a_feature_method(tiny: Tiny, tmp_path: Path) -> None:
    recipe = load_recipe(str(recipe_of(tiny, tmp_path / "recipe.toml", 'method = "fsp"')))
    with pytest.raises(UserError, match="method 'fsp' needs a teacher"):
        make_plan(replace(recipe, stages=recipe.stages[1:]))
