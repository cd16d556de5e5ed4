"""Divergence: a stage that diverges goes back, lowers its rate, and never counts as done."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Interrupted, Tiny
from tiny_trainer import LABELS, TASK, make_trainer
from torch import nn

from compress.data.batches import Batch, plain_batches
from compress.data.dataset import Dataset
from compress.data.open_dataset import open_dataset
from compress.models.build import import_builder
from compress.models.tensor_file import read_tensors
from compress.recipe.stages import Train
from compress.runtime.errors import UserError
from compress.training.divergence import LOWER, MAX_RETRIES
from compress.training.evaluate import measure_scores
from compress.training.events import Events
from compress.training.objective import Forward, Losses
from compress.training.state import previous_state
from compress.training.trainer import TrainResult

STAGE = Train(kind="finetune", epochs=3, optimizer="sgd", lr=0.05)


@pytest.fixture(scope="module")
def data(tiny: Tiny) -> Dataset:
    return open_dataset(f"folder:{tiny.data}", image_size=16)


class Lines(Events):
    """Keeps the lines of the log; stops after an epoch, if told to."""

    def __init__(self, stop_after: int = 0) -> None:
        self.lines: list[str] = []
        self.left = stop_after

    def log(self, text: str) -> None:
        self.lines.append(text)

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted


def fit(
    data: Dataset,
    state: Path,
    stage: Train = STAGE,
    objective: Callable[..., Losses] = LABELS,
    events: Events | None = None,
) -> TrainResult:
    """Train the tiny student; its validation is that of a run."""
    torch.manual_seed(0)

    def validate(network: nn.Module) -> float:
        scores = measure_scores(network, plain_batches(data, data.val, batch_size=500), TASK)
        return scores.main if scores.finite else math.nan

    model = import_builder("tinynets:student")(num_classes=4)
    trainer = make_trainer(
        data, state, stage, model=model, objective=objective, events=events, validate=validate
    )
    return trainer.fit()


class Explosive:
    """The losses of `LABELS`, infinite from step `first` on until it has been so `times` times."""

    def __init__(self, first: int, times: int) -> None:
        self.first, self.times, self.seen = first, times, -1

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Losses:
        self.seen += 1
        loss = LABELS(student, batch, progress)["labels"]
        if self.seen >= self.first and self.times:
            self.times -= 1
            return {"labels": loss * math.inf}
        return {"labels": loss}


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("first", [0, 3, 8])
def test_a_stage_goes_back_and_on_at_a_lower_rate(
    data: Dataset, tmp_path: Path, first: int, ema: float
) -> None:
    """What it comes to is as if the rate had been lower from that epoch on."""
    events, stage = Lines(), replace(STAGE, ema=ema)
    result = fit(data, tmp_path / "s.state", stage, Explosive(first, 1), events)
    back = "the start" if first < 6 else "epoch 1"
    assert len(events.lines) == 1 and f"back to {back}" in events.lines[0]
    assert [line["epoch"] for line in result.history] == [1, 2, 3]
    kept = read_tensors(tmp_path / "s.state")
    assert kept["lowered"] == 1
    assert kept["optimizer"]["param_groups"][0]["lr"] < STAGE.lr * LOWER
    if first < 6:
        lower = fit(data, tmp_path / "l.state", replace(stage, lr=STAGE.lr * LOWER))
        ours, theirs = result.model.state_dict(), lower.model.state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_resumed_stage_keeps_its_lowered_rate(data: Dataset, tmp_path: Path) -> None:
    whole = fit(data, tmp_path / "a.state", objective=Explosive(8, 1))
    with pytest.raises(Interrupted):
        fit(data, tmp_path / "b.state", objective=Explosive(8, 1), events=Lines(stop_after=2))
    again = fit(data, tmp_path / "b.state")
    ours, theirs = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_it_is_taken_back_a_bounded_number_of_times(data: Dataset, tmp_path: Path) -> None:
    events = Lines()
    with pytest.raises(UserError, match=r"not finite in epoch 2.*lower the stage's lr") as refused:
        fit(data, tmp_path / "s.state", objective=Explosive(8, 1000), events=events)
    assert len(events.lines) == MAX_RETRIES and "\n" not in str(refused.value)
    assert len(read_tensors(tmp_path / "s.state")["history"]) == 1


@pytest.mark.parametrize("ruin", [math.nan, math.inf, 1e38])
def test_divergence_in_the_last_step_is_noticed(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ruin: float
) -> None:
    """The losses are finite then: what the last step makes of the weights is not."""
    steps, real = iter(range(1000)), torch.optim.SGD.step

    def step(self: torch.optim.SGD, *arguments: object) -> object:
        done = real(self, *arguments)  # type: ignore[arg-type]
        if next(steps) == 3 * 6 - 1:
            for parameter in self.param_groups[0]["params"]:
                parameter.data.fill_(ruin)
        return done

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    events = Lines()
    result = fit(data, tmp_path / "s.state", events=events)
    assert len(events.lines) == 1 and "not finite in epoch 3: back to epoch 2" in events.lines[0]
    assert all(each.isfinite().all() for each in result.model.state_dict().values())


@pytest.mark.parametrize("which", ["newest", "both"])
def test_a_broken_state_falls_back_to_the_epoch_before(
    data: Dataset, tmp_path: Path, which: str
) -> None:
    """It is named, and the result is the same bit by bit."""
    whole = fit(data, tmp_path / "whole.state")
    state, events = tmp_path / "s.state", Lines()
    with pytest.raises(Interrupted):
        fit(data, state, events=Lines(stop_after=2))
    for file in (state, previous_state(state))[: 1 + (which == "both")]:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    again = fit(data, state, events=events)
    assert str(state) in events.lines[0] and "checksum" in events.lines[0]
    assert ("resuming after epoch 1" in events.lines[-1]) == (which == "newest")
    ours, theirs = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
