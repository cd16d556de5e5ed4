"""The trainer: it learns, it returns what it reports, and resuming changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Interrupted, Tiny
from tiny_trainer import (
    LABELS,
    STAGE,
    TASK,
    InterruptAfter,
    accuracy,
    make_trainer,
    metrics,
    net,
    same,
    train,
)
from torch import Tensor, nn

from compress.data.batches import Batch, plain_batches
from compress.data.dataset import Dataset
from compress.data.open_dataset import open_dataset
from compress.runtime.errors import UserError
from compress.runtime.sealed_json import seal_line
from compress.training.evaluate import measure_accuracy
from compress.training.events import Events
from compress.training.objective import Forward, Losses
from compress.training.schedule import count_steps, learning_rate
from compress.training.trainer import TrainResult


@pytest.fixture(scope="module")
def data(tiny: Tiny) -> Dataset:
    return open_dataset(f"folder:{tiny.data}", image_size=16)


class Recording:
    """The loss on the labels, which also records the arguments and the loss of each call."""

    def __init__(self) -> None:
        self.progress: list[float] = []
        self.losses: list[float] = []

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Losses:
        losses = LABELS(student, batch, progress)
        self.progress.append(progress)
        self.losses.append(float(losses["labels"].detach()))
        return losses


def test_training_lowers_the_loss_and_raises_the_accuracy(data: Dataset, tmp_path: Path) -> None:
    result = make_trainer(data, tmp_path / "s.state", replace(STAGE, epochs=8)).fit()
    lines = metrics(tmp_path / "s.state")
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert not result.model.training
    batches = plain_batches(data, data.test(), batch_size=500)
    assert measure_accuracy(result.model, batches, TASK) > 0.75
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_the_result_carries_history_epochs_and_seconds(data: Dataset, tmp_path: Path) -> None:
    result = make_trainer(data, tmp_path / "s.state", replace(STAGE, epochs=1.5)).fit()
    assert isinstance(result, TrainResult) and result.epochs == 1.5
    assert list(result.history) == metrics(tmp_path / "s.state")
    assert result.seconds == result.history[-1]["seconds"]


def test_the_metrics_of_an_epoch_are_sealed_once(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = []

    def seal(line: dict[str, Any]) -> str:
        sealed.append(line["epoch"])
        return seal_line(line)

    monkeypatch.setattr("compress.training.trainer.seal_line", seal)
    result = make_trainer(data, tmp_path / "s.state", replace(STAGE, epochs=3)).fit()
    assert sealed == [1, 2, 3] and tuple(metrics(tmp_path / "s.state")) == result.history


def test_named_losses_are_logged_apart_and_add_up(data: Dataset, tmp_path: Path) -> None:
    def objective(student: Forward, batch: Batch, progress: float) -> Losses:
        labels = LABELS(student, batch, progress)["labels"]
        return {"labels": labels, "distillation": 0.5 * labels.detach() * 2, "features": labels * 0}

    make_trainer(data, tmp_path / "s.state", replace(STAGE, epochs=2), objective=objective).fit()
    for line in metrics(tmp_path / "s.state"):
        assert list(line) == [
            *("epoch", "loss", "labels", "distillation", "features"),
            *("lr", "images_per_second", "val", "seconds"),
        ]
        assert line["distillation"] == pytest.approx(line["labels"]) and line["features"] == 0
        assert line["loss"] == pytest.approx(line["labels"] + line["distillation"])


@pytest.mark.parametrize("name", ["epoch", "loss", "lr", "val", "seconds"])
def test_a_loss_named_as_another_metric_is_refused(
    data: Dataset, tmp_path: Path, name: str
) -> None:
    def objective(student: Forward, batch: Batch, progress: float) -> Losses:
        return {name: LABELS(student, batch, progress)["labels"]}

    with pytest.raises(UserError, match=f"'{name}'"):
        make_trainer(data, tmp_path / "s.state", STAGE, objective=objective).fit()


def test_a_trainer_can_be_stepped(data: Dataset, tmp_path: Path) -> None:
    """Steps compute what `fit` computes, and nothing is written before the epoch's end."""
    state = tmp_path / "stepped.state"
    trainer = make_trainer(data, state, replace(STAGE, epochs=1))
    losses = [float(step["labels"].detach()) for step in trainer.steps(0)]
    assert len(losses) == count_steps(data.train_count, 32) and not state.exists()
    line = trainer.finish_epoch(0, started=0.0)
    assert line["labels"] == pytest.approx(sum(losses) / len(losses)) and state.exists()
    fitted = train(data, tmp_path / "fitted.state", replace(STAGE, epochs=1))
    assert same(trainer.result.eval(), fitted)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_learning_rate_of_zero_leaves_the_weights_alone(
    data: Dataset, tmp_path: Path, optimizer: str
) -> None:
    stage = replace(STAGE, optimizer=optimizer, epochs=1)
    trainer = make_trainer(data, tmp_path / "s.state", stage, lr_scale=0.0)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    assert len(list(trainer.steps(0))) == count_steps(data.train_count, 32)
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name])


def test_validation_is_of_the_model_that_comes_back(data: Dataset, tmp_path: Path) -> None:
    for ema in (0.0, 0.9):
        model = train(data, tmp_path / f"{ema}.state", replace(STAGE, ema=ema))
        assert metrics(tmp_path / f"{ema}.state")[-1]["val"] == accuracy(model, data)


@pytest.mark.slow
# ``auto`` is Muon for this network.
@pytest.mark.parametrize(("optimizer", "ema"), [("sgd", 0.0), ("adamw", 0.9), ("auto", 0.9)])
def test_resuming_after_any_epoch_ends_with_the_same_weights(
    data: Dataset, tmp_path: Path, optimizer: str, ema: float
) -> None:
    lr = 0.05 if optimizer == "sgd" else 5e-3
    stage = replace(STAGE, optimizer=optimizer, ema=ema, lr=lr)
    straight = train(data, tmp_path / "straight.state", stage)
    for epoch in range(1, int(stage.epochs) + 1):
        for middle in (False, True) if epoch < stage.epochs else (False,):
            state = tmp_path / f"{epoch}{middle}.state"
            with pytest.raises(Interrupted):
                train(data, state, stage, events=InterruptAfter(epoch, middle))
            # Earlier work of the process must not matter.
            torch.manual_seed(999)
            resumed = train(data, state, stage, model=net(seed=5))
            assert same(resumed, straight), (epoch, middle)
            a, b = metrics(state), metrics(tmp_path / "straight.state")
            assert [(m["loss"], m["val"]) for m in a] == [(m["loss"], m["val"]) for m in b]


def test_the_last_epoch_may_be_a_short_one(data: Dataset, tmp_path: Path) -> None:
    """2.4 epochs of 6 steps are 6, 6 and 2 steps, with rates that end near zero."""
    stage, recording = replace(STAGE, epochs=2.4), Recording()
    assert count_steps(data.train_count, 32) == 6
    straight = train(data, tmp_path / "straight.state", stage, objective=recording)
    assert recording.progress == pytest.approx([(step + 0.5) / 14 for step in range(14)])
    last = learning_rate(stage.lr, stage.warmup, recording.progress[-1])
    assert 0 < last < 0.05 * stage.lr
    means = [sum(recording.losses[a:b]) / (b - a) for a, b in ((0, 6), (6, 12), (12, 14))]
    lines = metrics(tmp_path / "straight.state")
    assert [line["loss"] for line in lines] == pytest.approx(means)
    # The last interruption is in the middle of the short epoch.
    for epoch, middle in ((1, False), (2, False), (2, True)):
        state = tmp_path / f"{epoch}{middle}.state"
        with pytest.raises(Interrupted):
            train(data, state, stage, events=InterruptAfter(epoch, middle))
        assert same(train(data, state, stage, model=net(seed=5)), straight), (epoch, middle)


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.7, 4), (1.0, 6), (1.5, 9), (2, 12)])
def test_epochs_are_rounded_to_steps(
    data: Dataset, tmp_path: Path, epochs: float, steps: int
) -> None:
    totals: list[int] = []

    class Counting(Events):
        def progress(self, batches, total: int, label: str) -> Iterator[Batch]:  # type: ignore[no-untyped-def]
            taken = list(batches)
            totals.append(total)
            assert len(taken) == total
            yield from taken

    train(data, tmp_path / "s.state", replace(STAGE, epochs=epochs), events=Counting())
    assert sum(totals) == steps and all(total == 6 for total in totals[:-1])


def frozen(seed: int = 0) -> nn.Module:
    """Return the network with only its second half to train."""
    model = net(seed)
    for layer in list(model)[:4]:
        layer.requires_grad_(False)
    return model


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.05), ("adamw", 5e-3), ("muon", 5e-3)])
def test_frozen_parts_stay_as_they_are(
    data: Dataset, tmp_path: Path, optimizer: str, lr: float
) -> None:
    """Weights and running statistics stay the same to the bit, after resuming too."""
    stage = replace(STAGE, optimizer=optimizer, lr=lr, epochs=2)
    straight = train(data, tmp_path / "straight.state", stage, model=frozen())
    before, after = frozen().state_dict(), straight.state_dict()
    unchanged = {key for key in after if torch.equal(after[key], before[key])}
    assert unchanged == {key for key in after if key.split(".")[0] in ("0", "1")}
    state = tmp_path / "resumed.state"
    with pytest.raises(Interrupted):
        train(data, state, stage, model=frozen(), events=InterruptAfter(1))
    assert same(train(data, state, stage, model=frozen(seed=5)), straight)


def test_random_numbers_differ_from_step_to_step(data: Dataset, tmp_path: Path) -> None:
    """Otherwise, the tests of resuming would not cover dropout."""
    seen: list[Tensor] = []

    def objective(student: Forward, batch: Batch, progress: float) -> Losses:
        seen.append(torch.rand(8))
        return LABELS(student, batch, progress)

    train(data, tmp_path / "s.state", objective=objective)
    assert len({tuple(numbers.tolist()) for numbers in seen}) == len(seen)


def test_the_moving_average_is_that_of_a_plain_loop(data: Dataset, tmp_path: Path) -> None:
    model, kept = net(), list[dict[str, Tensor]]()

    def weights() -> dict[str, Tensor]:
        return {key: t.detach().clone().double() for key, t in model.state_dict().items()}

    def objective(student: Forward, batch: Batch, progress: float) -> Losses:
        kept.append(weights())
        return LABELS(student, batch, progress)

    stage = replace(STAGE, ema=0.8)
    averaged = train(data, tmp_path / "s.state", stage, model=model, objective=objective)
    steps = [*kept[1:], weights()]
    by_hand = steps[0]
    for number, now in enumerate(steps[1:], start=1):
        decay = min(0.8, (1 + number) / (10 + number))
        by_hand = {key: decay * by_hand[key] + (1 - decay) * now[key] for key in now}
    found = averaged.state_dict()
    for key, value in by_hand.items():
        if found[key].is_floating_point():
            torch.testing.assert_close(found[key].double(), value, rtol=1e-4, atol=1e-5)
    assert averaged is not model and not same(averaged, model)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_weights_decay_and_biases_and_norms_do_not(
    data: Dataset, tmp_path: Path, optimizer: str
) -> None:
    model = net()

    def nothing(student: Forward, batch: Batch, progress: float) -> Losses:
        return {"labels": sum((p.sum() * 0 for p in model.parameters()), torch.zeros(()))}

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    stage = replace(STAGE, optimizer=optimizer, lr=0.1, weight_decay=0.1)
    train(data, tmp_path / "s.state", stage, model=model, objective=nothing)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            assert float(parameter.detach().norm()) < 0.95 * float(before[name].norm()), name
        else:
            assert torch.equal(parameter, before[name]), name


def test_images_are_resized_on_their_way_in(data: Dataset, tmp_path: Path) -> None:
    sizes: set[int] = set()
    model = net()
    model.register_forward_pre_hook(lambda _, inputs: sizes.add(inputs[0].shape[-1]))
    train(data, tmp_path / "s.state", replace(STAGE, epochs=1), model=model, image_size=8)
    assert sizes == {8}


def test_progress_runs_from_zero_towards_one(data: Dataset, tmp_path: Path) -> None:
    recording = Recording()
    train(data, tmp_path / "s.state", objective=recording)
    steps = 4 * count_steps(data.train_count, 32)
    assert recording.progress == pytest.approx([(step + 0.5) / steps for step in range(steps)])


def test_a_loss_that_is_not_finite_ends_the_training(data: Dataset, tmp_path: Path) -> None:
    calls = iter(range(1000))

    def exploding(student: Forward, batch: Batch, progress: float) -> Losses:
        factor = float("nan") if next(calls) >= 8 else 1
        return {"labels": LABELS(student, batch, progress)["labels"] * factor}

    with pytest.raises(UserError, match=r"not finite in epoch 2, .*; lower .* lr"):
        train(data, tmp_path / "s.state", objective=exploding)
    assert len(metrics(tmp_path / "s.state")) == 1
