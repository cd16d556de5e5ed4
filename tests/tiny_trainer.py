"""A trainer of a tiny network on tiny images, and what interrupts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tiny import Interrupted
from torch import nn

from compress.data.batches import Batch, plain_batches, training_batches
from compress.data.dataset import Dataset
from compress.distillation.labels import Labels
from compress.recipe.stages import Augment, Train
from compress.runtime.sealed_json import open_line
from compress.training.classification import Classification
from compress.training.evaluate import measure_accuracy
from compress.training.events import Events
from compress.training.objective import Objective
from compress.training.schedule import count_steps
from compress.training.trainer import Trainer

STAGE = Train(kind="finetune", epochs=4, optimizer="adamw", lr=5e-3, weight_decay=1e-2, warmup=0.25)
TASK = Classification(4)
LABELS = Labels(TASK)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.Conv2d(12, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU(), nn.Dropout(0.2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)),
    )


class InterruptAfter(Events):
    """Interrupts training right after an epoch, or in the middle of the next."""

    def __init__(self, epoch: int, middle: bool = False) -> None:
        self.left, self.middle = epoch, middle

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        self.left -= 1
        if self.left == 0 and not self.middle:
            raise Interrupted

    def progress(self, batches, total: int, label: str) -> Iterator[Batch]:  # type: ignore[no-untyped-def]
        for place, batch in enumerate(batches):
            if self.left == 0 and place == total // 2:
                raise Interrupted
            yield batch


def make_trainer(
    data: Dataset,
    state: Path,
    stage: Train = STAGE,
    *,
    model: nn.Module | None = None,
    events: Events | None = None,
    image_size: int | None = None,
    objective: Objective = LABELS,
    lr_scale: float = 1.0,
    validate: Callable[[nn.Module], float] | None = None,
) -> Trainer:
    def batches(epoch: int) -> Iterator[Batch]:
        return training_batches(
            data,
            Augment(),
            encode_targets=TASK.encode_targets,
            seed=0,
            view=epoch,
            batch_size=32,
        )

    return Trainer(
        model or net(),
        objective,
        stage,
        batches=batches,
        steps_per_epoch=count_steps(data.train_count, 32),
        validate=validate or (lambda trained: accuracy(trained, data, image_size)),
        seed=0,
        state=state,
        events=events,
        image_size=image_size,
        lr_scale=lr_scale,
    )


def accuracy(model: nn.Module, data: Dataset, image_size: int | None = None) -> float:
    batches = plain_batches(data, data.val, batch_size=500)
    return measure_accuracy(model, batches, TASK, image_size=image_size)


def train(data: Dataset, state: Path, stage: Train = STAGE, **options: object) -> nn.Module:
    return make_trainer(data, state, stage, **options).fit().model  # type: ignore[arg-type]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def metrics(state: Path) -> list[dict[str, float]]:
    """Return the metrics of every epoch, as they are written beside a state."""
    return [open_line(line) for line in state.with_suffix(".jsonl").read_text().splitlines()]
