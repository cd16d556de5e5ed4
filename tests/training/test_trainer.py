"""The training loop: it learns, its result is what it says, and a kill changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Tiny
from torch import Tensor, nn

from compress.data.batches import Batch, plain_batches, training_batches
from compress.data.dataset import Dataset, open_dataset
from compress.distillation.labels import Labels
from compress.recipe.schema import Augment
from compress.runtime.errors import UserError
from compress.training.events import Events
from compress.training.trainer import Schedule, accuracy, forward, steps_of, train

SCHEDULE = Schedule(epochs=4, optimizer="adamw", lr=5e-3, weight_decay=1e-2, warmup=0.25, ema=0.0)


@pytest.fixture(scope="module")
def data(tiny: Tiny) -> Dataset:
    return open_dataset(f"folder:{tiny.data}", size=16)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Conv2d(12, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)),
    )


class Stop(Exception):
    """Stands in for a kill."""


class StopAfter(Events):
    """Ends the training right after an epoch, or in the middle of the next."""

    def __init__(self, epoch: int, middle: bool = False) -> None:
        self.left, self.middle = epoch, middle

    def on_epoch_end(self, epochs: int, history: list[dict[str, float]]) -> None:
        self.left -= 1
        if self.left == 0 and not self.middle:
            raise Stop

    def progress(self, batches, total: int, label: str) -> Iterator[Batch]:  # type: ignore[no-untyped-def]
        for place, batch in enumerate(batches):
            if self.left == 0 and place == total // 2:
                raise Stop
            yield batch


def learn(
    data: Dataset,
    state: Path,
    schedule: Schedule = SCHEDULE,
    *,
    model: nn.Module | None = None,
    events: Events | None = None,
    size: int | None = None,
    objective: object = None,
) -> nn.Module:
    return train(
        model or net(),
        lambda epoch: training_batches(data, Augment(), seed=0, view=epoch, batch=32),
        objective or Labels(),  # type: ignore[arg-type]
        schedule,
        steps=steps_of(len(data.train), 32),
        validate=lambda trained: accuracy(
            trained, plain_batches(data, data.val, batch=500), size=size
        ),
        seed=0,
        state=state,
        events=events or Events(),
        size=size,
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_it_learns(data: Dataset, tmp_path: Path) -> None:
    model = learn(data, tmp_path / "s.state", replace(SCHEDULE, epochs=8))
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 9))
    assert lines[-1]["loss"] < 0.6 * lines[0]["loss"]
    assert accuracy(model, plain_batches(data, data.test(), batch=500)) > 0.75
    assert not model.training
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_validation_is_of_the_model_that_comes_back(data: Dataset, tmp_path: Path) -> None:
    for ema in (0.0, 0.9):
        model = learn(data, tmp_path / f"{ema}.state", replace(SCHEDULE, ema=ema))
        last = json.loads((tmp_path / f"{ema}.jsonl").read_text().splitlines()[-1])
        assert last["val"] == accuracy(model, plain_batches(data, data.val, batch=7))


def test_the_rate_rises_in_a_line_to_the_peak_and_falls_in_a_line_to_zero() -> None:
    schedule = replace(SCHEDULE, lr=0.8, warmup=0.2)
    assert schedule.rate(0) == 0 and schedule.rate(1) == pytest.approx(0)
    assert schedule.rate(0.2) == pytest.approx(0.8)
    assert schedule.rate(0.1) == pytest.approx(0.4) and schedule.rate(0.6) == pytest.approx(0.4)
    assert replace(schedule, warmup=0.0).rate(0) == 0.8  # no warm-up: from the peak on
    assert replace(schedule, warmup=1.0).rate(0.5) == pytest.approx(0.4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_going_on_after_any_epoch_ends_with_the_same_weights(
    data: Dataset, tmp_path: Path, optimizer: str, ema: float
) -> None:
    schedule = replace(
        SCHEDULE, optimizer=optimizer, ema=ema, lr=0.05 if optimizer == "sgd" else 5e-3
    )  # type: ignore[arg-type]
    whole = learn(data, tmp_path / "whole.state", schedule)
    for epoch in range(1, schedule.epochs + 1):
        for middle in (False, True) if epoch < schedule.epochs else (False,):
            state = tmp_path / f"{epoch}{middle}.state"
            with pytest.raises(Stop):
                learn(data, state, schedule, events=StopAfter(epoch, middle))
            torch.manual_seed(999)  # what went on before in the process must not matter
            resumed = learn(data, state, schedule, model=net(seed=5))
            assert same(resumed, whole), (epoch, middle)
    metrics = [json.loads(line) for line in state.with_suffix(".jsonl").read_text().splitlines()]
    straight = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    assert [(m["loss"], m["val"]) for m in metrics] == [(s["loss"], s["val"]) for s in straight]


def test_the_last_epoch_may_be_a_short_one(data: Dataset, tmp_path: Path) -> None:
    """2.4 epochs of 6 steps are 14 steps: 6, 6 and 2, at rates that end next to zero."""
    schedule, rates, losses = replace(SCHEDULE, epochs=2.4), [], []
    assert steps_of(len(data.train), 32) == 6

    def watching(student: object, batch: Batch, progress: float) -> Tensor:
        rates.append(schedule.rate(progress))
        loss = Labels()(student, batch, progress)  # type: ignore[arg-type]
        losses.append(float(loss.detach()))
        return loss

    whole = learn(data, tmp_path / "whole.state", schedule, objective=watching)
    assert rates == pytest.approx([schedule.rate((step + 0.5) / 14) for step in range(14)])
    assert 0 < rates[-1] < 0.05 * schedule.lr
    lines = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    means = [sum(losses[a:b]) / (b - a) for a, b in ((0, 6), (6, 12), (12, 14))]
    assert [line["loss"] for line in lines] == pytest.approx(means)
    for epoch, middle in (
        (1, False),
        (2, False),
        (2, True),
    ):  # the last: in the middle of the short epoch
        state = tmp_path / f"{epoch}{middle}.state"
        with pytest.raises(Stop):
            learn(data, state, schedule, events=StopAfter(epoch, middle))
        assert same(learn(data, state, schedule, model=net(seed=5)), whole), (epoch, middle)


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.7, 4), (1.0, 6), (1.5, 9), (2, 12)])
def test_epochs_are_rounded_to_steps(
    data: Dataset, tmp_path: Path, epochs: float, steps: int
) -> None:
    seen: list[int] = []

    class Counting(Events):
        def progress(self, batches, total: int, label: str) -> Iterator[Batch]:  # type: ignore[no-untyped-def]
            taken = list(batches)
            seen.append(total)
            assert len(taken) == total
            yield from taken

    learn(data, tmp_path / "s.state", replace(SCHEDULE, epochs=epochs), events=Counting())
    assert sum(seen) == steps and all(total == 6 for total in seen[:-1])


def frozen(seed: int = 0) -> nn.Module:
    """The network with nothing left to learn but its second half."""
    model = net(seed)
    for layer in list(model)[:4]:
        layer.requires_grad_(False)
    return model


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.05), ("adamw", 5e-3), ("muon", 5e-3)])
def test_what_requires_no_gradient_stays_as_it_is(
    data: Dataset, tmp_path: Path, optimizer: str, lr: float
) -> None:
    """Weights and running statistics to the bit, whatever else learns, after a kill too."""
    schedule = replace(SCHEDULE, optimizer=optimizer, lr=lr, epochs=2)  # type: ignore[arg-type]
    whole = learn(data, tmp_path / "whole.state", schedule, model=frozen())
    before, after = frozen().state_dict(), whole.state_dict()
    unchanged = {key for key in after if torch.equal(after[key], before[key])}
    assert unchanged == {key for key in after if key.split(".")[0] in ("0", "1")}
    with pytest.raises(Stop):
        learn(data, tmp_path / "cut.state", schedule, model=frozen(), events=StopAfter(1))
    assert same(learn(data, tmp_path / "cut.state", schedule, model=frozen(seed=5)), whole)


def test_dropout_differs_from_epoch_to_epoch(data: Dataset, tmp_path: Path) -> None:
    """Else the test above would say nothing of the random state."""
    seen: list[Tensor] = []

    def watching(student: object, batch: Batch, progress: float) -> Tensor:
        seen.append(torch.rand(8))
        return Labels()(student, batch, progress)  # type: ignore[arg-type]

    learn(data, tmp_path / "s.state", objective=watching)
    assert len({tuple(numbers.tolist()) for numbers in seen}) == len(seen)


def test_the_running_average_is_one(data: Dataset, tmp_path: Path) -> None:
    """Against a plain loop over the weights after each step."""
    model, kept = net(), []

    def watching(student: object, batch: Batch, progress: float) -> Tensor:
        kept.append(
            {key: value.detach().clone().double() for key, value in model.state_dict().items()}
        )
        return Labels()(student, batch, progress)  # type: ignore[arg-type]

    averaged = learn(
        data, tmp_path / "s.state", replace(SCHEDULE, ema=0.8), model=model, objective=watching
    )
    steps = [*kept[1:], {key: value.double() for key, value in model.state_dict().items()}]
    by_hand = steps[0]
    for seen, now in enumerate(steps[1:], start=1):
        decay = min(0.8, (1 + seen) / (10 + seen))
        by_hand = {key: decay * by_hand[key] + (1 - decay) * now[key] for key in now}
    found = averaged.state_dict()
    for key, value in by_hand.items():
        if found[key].is_floating_point():
            torch.testing.assert_close(found[key].double(), value, rtol=1e-4, atol=1e-5)
    assert averaged is not model and not same(averaged, model)


def test_weights_decay_and_biases_and_norms_do_not(data: Dataset, tmp_path: Path) -> None:
    def nothing(student: object, batch: Batch, progress: float) -> Tensor:
        return sum((p.sum() * 0 for p in model.parameters()), torch.zeros(()))

    for optimizer, lr in (("sgd", 0.1), ("adamw", 0.1)):
        model = net()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        schedule = replace(SCHEDULE, optimizer=optimizer, lr=lr, weight_decay=0.1)  # type: ignore[arg-type]
        learn(data, tmp_path / f"{optimizer}.state", schedule, model=model, objective=nothing)
        for name, p in model.named_parameters():
            if p.dim() > 1:
                assert float(p.detach().norm()) < 0.95 * float(before[name].norm()), name
            else:
                assert torch.equal(p, before[name]), name


def test_images_are_resized_on_their_way_in(data: Dataset, tmp_path: Path) -> None:
    sides: set[int] = set()
    model = net()
    model.register_forward_pre_hook(lambda _, inputs: sides.add(inputs[0].shape[-1]))
    learn(data, tmp_path / "s.state", replace(SCHEDULE, epochs=1), model=model, size=8)
    assert sides == {8}

    speckled = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    small = forward(lambda x: x.flatten(1), 8)(
        speckled
    )  # made smaller, noise averages out: each pixel has its say
    assert small.shape == (2, 3 * 8 * 8) and float(small.std()) < 0.3 * float(speckled.std())


def test_progress_runs_from_zero_towards_one(data: Dataset, tmp_path: Path) -> None:
    seen: list[float] = []

    def watching(student: object, batch: Batch, progress: float) -> Tensor:
        seen.append(progress)
        return Labels()(student, batch, progress)  # type: ignore[arg-type]

    learn(data, tmp_path / "s.state", objective=watching)
    steps = 4 * steps_of(len(data.train), 32)
    assert seen == pytest.approx([(step + 0.5) / steps for step in range(steps)])


def test_a_loss_that_is_not_finite_ends_the_training(data: Dataset, tmp_path: Path) -> None:
    calls = iter(range(1000))

    def exploding(student: object, batch: Batch, progress: float) -> Tensor:
        loss = Labels()(student, batch, progress)  # type: ignore[arg-type]
        return loss * (float("nan") if next(calls) == 8 else 1)

    with pytest.raises(UserError, match="not finite after epoch 2; lower"):
        learn(data, tmp_path / "s.state", objective=exploding)
    assert len((tmp_path / "s.jsonl").read_text().splitlines()) == 1


def test_accuracy_counts_right_answers(data: Dataset) -> None:
    class Third(nn.Module):
        """Right for every third image, at least."""

        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            assert not self.training
            return images[:, 0, 0] + self.bias

    targets = torch.eye(4)[torch.arange(30) % 4]
    answers = torch.eye(4)[(torch.arange(30) % 4 + (torch.arange(30) % 3 > 0)) % 4]
    images = answers[:, None, None, :].expand(-1, 3, 4, 4)
    batches = [
        Batch(images[a : a + 7], targets[a : a + 7], torch.arange(7), a) for a in range(0, 30, 7)
    ]
    model = Third().train()
    assert accuracy(model, batches) == pytest.approx(10 / 30) and model.training
    assert accuracy(model, []) == 0


@pytest.mark.parametrize(("samples", "steps"), [(1, 1), (31, 1), (32, 1), (63, 1), (64, 2)])
def test_an_epoch_is_of_whole_batches(samples: int, steps: int) -> None:
    assert steps_of(samples, 32) == steps
