"""No training step waits for a GPU.

The meta device stands in for a GPU. It has shapes but no values: everything that needs a value
(`item()`, `int`, `bool`, indexing by a mask, `cpu()`) fails on it, and would wait on a GPU. Copies
to the device, which may wait as well, and writing the logits cache are not covered.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tiny import Tiny
from torch import Tensor, nn

from compress.data.batches import Batch, plain_batches, training_batches
from compress.data.dataset import Dataset
from compress.data.open_dataset import open_dataset
from compress.distillation.labels import Labels
from compress.distillation.method import Teacher
from compress.distillation.objectives import build_objective
from compress.models.build import import_builder
from compress.recipe.registry import METHODS
from compress.recipe.stages import Augment, Train
from compress.runtime import distributed
from compress.training import ddp
from compress.training.classification import Classification
from compress.training.evaluate import measure_accuracy
from compress.training.forward import make_teacher
from compress.training.objective import Forward, Losses, Objective
from compress.training.trainer import Trainer

STEPS = 6
META = torch.device("meta")
TASK = Classification(4)


@pytest.fixture(scope="module")
def data(tiny: Tiny) -> Dataset:
    return open_dataset(f"folder:{tiny.data}", image_size=16).to(META)


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable autocast, which does not support the meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def view(data: Dataset, epoch: int) -> Iterator[Batch]:
    return training_batches(
        data,
        Augment(mixup=0.2, cutmix=1.0),
        encode_targets=TASK.encode_targets,
        seed=0,
        view=epoch,
        batch_size=32,
    )


def build_network(name: str) -> nn.Module:
    return import_builder(f"tinynets:{name}")(num_classes=4).to(META)


def count_steps_without_waiting(
    data: Dataset,
    state: Path,
    make_objective: Callable[[nn.Module], Objective],
    optimizer: str = "sgd",
    ema: float = 0.0,
) -> int:
    """Return how many of the `STEPS` steps of an epoch run before something needs a value."""
    student = build_network("student")
    trainer = Trainer(
        student,
        make_objective(student),
        Train(kind="finetune", epochs=1, optimizer=optimizer, ema=ema),  # type: ignore[arg-type]
        batches=lambda epoch: view(data, epoch),
        steps_per_epoch=STEPS,
        validate=lambda model: 0.0,
        seed=0,
        state=state,
        image_size=8,
    )
    steps = 0
    with torch.random.fork_rng(devices=[]), contextlib.suppress(RuntimeError, NotImplementedError):
        for _ in trainer.steps(0):
            steps += 1
    return steps


def objective_of(name: str, data: Dataset) -> Callable[[nn.Module], Objective]:
    """Return the objective of a method, with a teacher that runs at every step."""

    def make(student: nn.Module) -> Objective:
        teacher = Teacher(build_network("teacher"), 16)
        forward = make_teacher(copy.deepcopy(teacher.model), 16)
        return build_objective(
            Train(kind="distill", epochs=1, method=name),
            TASK,
            teacher,
            (student, 8),
            lambda: lambda batch: forward(batch.images),
            view(data, 0),
        )

    return make


@pytest.mark.parametrize("name", [m for m in METHODS.builtin if m != "channelwise"])
def test_no_method_waits(data: Dataset, tmp_path: Path, name: str) -> None:
    objective = objective_of(name, data)
    assert count_steps_without_waiting(data, tmp_path / "s.state", objective) == STEPS


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_neither_an_optimizer_nor_the_moving_average_waits(
    data: Dataset, tmp_path: Path, optimizer: str
) -> None:
    def labels(student: nn.Module) -> Objective:
        return Labels(TASK)

    steps = count_steps_without_waiting(data, tmp_path / "s.state", labels, optimizer, 0.9)
    assert steps == STEPS


def test_no_step_of_several_processes_waits(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batch norms exchange their statistics; DDP's own part is left out."""
    reduced = []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "broadcast", lambda value: value)
    monkeypatch.setattr(
        distributed, "all_reduce_sum", lambda tensor: reduced.append(tensor) or tensor
    )
    monkeypatch.setattr(ddp, "DistributedDataParallel", lambda module, **options: module)
    objective = objective_of("kd", data)
    assert count_steps_without_waiting(data, tmp_path / "s.state", objective) == STEPS
    # In the forward and the backward pass.
    assert len(reduced) > 2 * STEPS


def test_validation_only_waits_at_its_end(data: Dataset) -> None:
    seen: list[Batch] = []

    def batches() -> Iterator[Batch]:
        for batch in plain_batches(data, data.train, batch_size=32):
            seen.append(batch)
            yield batch

    with pytest.raises(RuntimeError):
        measure_accuracy(build_network("student"), batches(), TASK)
    assert len(seen) == data.train_count // 32 + 1


@pytest.mark.parametrize(
    "look", [Tensor.item, int, float, bool, Tensor.cpu, lambda loss: loss[loss > 0]]
)
def test_waiting_is_noticed(
    data: Dataset, tmp_path: Path, look: Callable[[Tensor], object]
) -> None:
    def waiting(student: Forward, batch: Batch, progress: float) -> Losses:
        loss = student(batch.images).sum()
        look(loss.detach())
        return {"labels": loss}

    assert count_steps_without_waiting(data, tmp_path / "s.state", lambda student: waiting) == 0
