"""No step waits for a GPU.

The meta device stands in for one: it has shapes and no values, so that whatever would have to know a value (`item()`,
`int`, `bool`, choosing by a mask, `cpu()`) fails on it, where on a GPU it would wait. Copies to the device, which may
wait as well, are not seen by this, nor the writing of the teacher's answers.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Tiny
from torch import Tensor, nn

from compress.data.batches import Batch, plain_batches, training_batches
from compress.data.dataset import Dataset, open_dataset
from compress.distillation.methods import METHODS, Sized, objective
from compress.models.build import import_builder
from compress.recipe.schema import Augment, Train
from compress.training import ddp as parallel
from compress.training.events import Events
from compress.training.trainer import Forward, Objective, Schedule, accuracy, teach, train

STEPS = 6
META = torch.device("meta")


class Counting(Events):
    """How many steps were done."""

    done = 0

    def progress(self, batches, total: int, label: str) -> Iterator[Batch]:  # type: ignore[no-untyped-def]
        for batch in batches:
            yield batch
            self.done += 1


@pytest.fixture(scope="module")
def data(tiny: Tiny) -> Dataset:
    data = open_dataset(f"folder:{tiny.data}", size=16)
    return replace(data, train=data.train.to(META))


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not know this device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def view(data: Dataset, epoch: int) -> Iterator[Batch]:
    return training_batches(data, Augment(mixup=0.2, cutmix=1.0), seed=0, view=epoch, batch=32)


def steps_without_waiting(
    data: Dataset,
    state: Path,
    goal: Callable[[nn.Module], Objective],
    optimizer: str = "sgd",
    ema: float = 0.0,
) -> int:
    """How many of the `STEPS` steps of an epoch are done before something has to be known."""
    student, events = import_builder("tinynets:student")(num_classes=4).to(META), Counting()
    schedule = Schedule(1, optimizer, 0.1, 5e-4, 0.2, ema)  # type: ignore[arg-type]
    looks = pytest.raises((RuntimeError, NotImplementedError))  # at the epoch's end, at the loss
    with looks, torch.random.fork_rng(devices=[]):
        train(
            student,
            lambda epoch: view(data, epoch),
            goal(student),
            schedule,
            steps=STEPS,
            validate=lambda model: 0.0,
            seed=0,
            state=state,
            events=events,
            size=8,
        )
    return events.done


def method(name: str, data: Dataset) -> Callable[[nn.Module], Objective]:
    """What a stage of this method trains for, the teacher's answers live."""

    def goal(student: nn.Module) -> Objective:
        stage, teacher = (
            Train(kind="distill", epochs=1, method=name),
            import_builder("tinynets:teacher")(num_classes=4),
        )
        sized = Sized(teacher.to(META), 16)
        answer = teach(copy.deepcopy(sized.network), 16)
        return objective(
            stage,
            sized,
            Sized(student, 8),
            lambda: lambda batch: answer(batch.images),
            view(data, 0),
        )

    return goal


@pytest.mark.parametrize("name", METHODS)
def test_no_method_waits(data: Dataset, tmp_path: Path, name: str) -> None:
    assert steps_without_waiting(data, tmp_path / "s.state", method(name, data)) == STEPS


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_neither_an_optimizer_nor_the_running_average_waits(
    data: Dataset, tmp_path: Path, optimizer: str
) -> None:
    assert (
        steps_without_waiting(data, tmp_path / "s.state", method("labels", data), optimizer, 0.9)
        == STEPS
    )


def test_no_step_of_several_processes_waits(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what they exchange, DDP's part left out: batch norms in which they meet."""
    met = []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "of_first", lambda value: value)
    monkeypatch.setattr(processes, "added", lambda tensor: met.append(tensor) or tensor)
    monkeypatch.setattr(parallel, "DistributedDataParallel", lambda module, **options: module)
    assert steps_without_waiting(data, tmp_path / "s.state", method("kd", data)) == STEPS
    assert len(met) > 2 * STEPS  # forward and backward


def test_validation_waits_at_its_end_alone(data: Dataset) -> None:
    seen = []
    batches = (seen.append(batch) or batch for batch in plain_batches(data, data.train, batch=32))
    with pytest.raises(RuntimeError):
        accuracy(import_builder("tinynets:student")(num_classes=4).to(META), batches)
    assert len(seen) == len(data.train) // 32 + 1


@pytest.mark.parametrize(
    "look", [Tensor.item, int, float, bool, Tensor.cpu, lambda loss: loss[loss > 0]]
)
def test_what_waits_is_seen(
    data: Dataset, tmp_path: Path, look: Callable[[Tensor], object]
) -> None:
    def goal(student: nn.Module) -> Objective:
        def waiting(student: Forward, batch: Batch, progress: float) -> Tensor:
            loss = student(batch.images).sum()
            look(loss.detach())
            return loss

        return waiting

    assert steps_without_waiting(data, tmp_path / "s.state", goal) == 0
