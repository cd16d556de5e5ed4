"""Runs with a budget on time: what they deliver, how they resume, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tiny import NAMES, Tiny, weights
from torch import nn

import compress
from compress.deployment.layer_graph import Layer
from compress.pipeline import stages
from compress.pipeline.plan import make_plan
from compress.pipeline.stage_costs import image_costs
from compress.pruning import pruner
from compress.pruning.clock import sum_layers
from compress.recipe.load import load_recipe
from compress.reporting.tables import stages_table
from compress.runtime.errors import UserError


class MacsTimer:
    """Times are proportional to the product of widths; `load` slows the machine down."""

    known: dict[str, float]

    def __init__(self, load: float = 1.0) -> None:
        self.load, self.known = load, {}

    def layer(self, layer: Layer, outs: int, ins: int) -> float:
        return 1.0 * outs * ins * layer.height * layer.width

    def networks(
        self, networks: Sequence[nn.Module], input_size: tuple[int, int, int]
    ) -> list[list[float]]:
        return [[1e-9 * self.load * sum_layers(self, each, input_size)] * 3 for each in networks]

    def keep(self, key: str, measure: Callable[[], float]) -> float:
        if key not in self.known:
            self.known[key] = measure()
        return self.known[key]


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch) -> MacsTimer:
    timer = MacsTimer()
    monkeypatch.setattr(pruner, "open_stopwatch", lambda runtime, threads: timer)
    return timer


def test_run_delivers_a_network_that_is_fast_enough(
    tiny: Tiny, tmp_path: Path, timer: MacsTimer
) -> None:
    plan = make_plan(load_recipe(str(tiny.recipe), {"speedup": "3x"}))
    result = compress.run(str(tiny.recipe), out=tmp_path / "run", max_images=64, speedup="3x")
    first, *others = [r.milliseconds for r in result.results if r.kind != "teach"]
    assert first is not None and others[-1] is not None and others[-1] == others[-2]
    assert 0.5 * first / 3 <= others[-1] <= first / 3
    written = json.loads((tmp_path / "run" / "run.json").read_text())
    assert written["stages"][-1]["milliseconds"] == others[-1]
    assert written["budget"]["nanoseconds"] == plan.limits.latency
    assert f"{others[-1]:.3f}" in stages_table(result.results).as_markdown()
    assert not list((tmp_path / "run" / "stages").glob("*.times"))


def test_stages_after_cuts_to_a_time_are_expected_to_be_faster(
    tiny: Tiny, timer: MacsTimer
) -> None:
    plan = make_plan(load_recipe(str(tiny.recipe), {"speedup": "4x"}), "cpu")
    costs = dict(zip(NAMES, image_costs(plan), strict=True))
    assert 0 < costs["finetune 2"] < costs["finetune 1"]


def test_more_threads_than_cores_are_refused_where_time_is_measured(
    tiny: Tiny, timer: MacsTimer
) -> None:
    recipe = load_recipe(str(tiny.recipe), {"speedup": "3x", "threads": 4000})
    with pytest.raises(UserError, match="4000 threads"):
        make_plan(recipe)


@pytest.mark.slow
def test_resumed_cut_is_the_same_on_a_busier_machine(
    tiny: Tiny, tmp_path: Path, timer: MacsTimer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"max_images": 64, "latency": "60%", "finetune.epochs": 1}
    compress.run(str(tiny.recipe), out=tmp_path / "whole", **keys)
    original = stages.reestimate_batchnorm
    calls: list[int] = []

    def interrupt(*arguments: object) -> None:
        calls.append(1)
        # The last cut is made and measured, but not yet saved.
        if len(list((tmp_path / "parts" / "stages").glob("*.times"))):
            raise KeyboardInterrupt
        original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(stages, "reestimate_batchnorm", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compress.run(str(tiny.recipe), out=tmp_path / "parts", **keys)
    monkeypatch.setattr(stages, "reestimate_batchnorm", original)
    timer.load = 3.0
    compress.run(str(tiny.recipe), out=tmp_path / "parts", **keys)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_time_out_of_reach_is_refused_before_training(tiny: Tiny, timer: MacsTimer) -> None:
    with pytest.raises(UserError, match=r"latency of 1us.*out of reach.*tinynets:student.* ms"):
        make_plan(load_recipe(str(tiny.recipe), {"latency": "1us"}))
    with pytest.raises(UserError, match=r"speedup of 1000000x.*out of reach"):
        make_plan(load_recipe(str(tiny.recipe), {"speedup": 1_000_000}))
    with pytest.raises(UserError, match=r"latency of 1s.*nothing to prune"):
        make_plan(load_recipe(str(tiny.recipe), {"latency": "1s"}))
