"""The training loop.

`Trainer.fit` trains to the end. `Trainer.steps` trains one step at a time: this is how
`compress.training.timing` measures the duration of a step.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.recipe.stages import Train
from compress.runtime import distributed
from compress.runtime.device import can_compile
from compress.runtime.errors import UserError, one_line
from compress.runtime.files import write_text
from compress.runtime.sealed_json import seal_line
from compress.training.ddp import share_step
from compress.training.divergence import (
    LOWER,
    MAX_RETRIES,
    DivergedError,
    LossWatch,
    check_weights,
)
from compress.training.events import Events, format_epoch
from compress.training.forward import compile_model, freeze_statistics, make_forward
from compress.training.objective import Losses, Objective, total_loss
from compress.training.optimizers import build_optimizer, settle_optimizer, update_average
from compress.training.schedule import find_phase, learning_rate
from compress.training.state import read_state, write_state

# Metrics of an epoch, as `Events.on_epoch_end` describes them.
Metrics = dict[str, float]

# A training step: takes a batch and the progress, returns the loss and its parts.
TrainingStep = Callable[[Batch, float], tuple[Tensor, Losses]]


@dataclass(frozen=True)
class TrainResult:
    """The result of training.

    Args:
        model: with its last weights, or with their moving average; in evaluation mode.
        epochs: epochs trained; the last may be a short one.
        history: the metrics of each epoch.
    """

    model: nn.Module
    epochs: float
    history: tuple[Metrics, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration of the training, without interruptions."""
        return self.history[-1]["seconds"] if self.history else 0.0


class Trainer:
    """Trains a model in place.

    After every epoch, everything that the next one needs is written to `state`, and the metrics so
    far are written beside it, one JSON line an epoch. If `state` exists, `fit` resumes from it and
    ends as if it had never been interrupted, since every random choice is a function of the epoch.
    In a distributed run each process trains on its shard of every batch, and the result is that of
    one process.

    Args:
        model: the network; parameters that require no gradient stay as they are, and so do batch
            norms all of whose parameters require none.
        objective: the losses to minimize.
        stage: length, optimizer and learning rate.
        batches: maps an epoch's number to its batches, on the model's device.
        steps_per_epoch: the number of batches of an epoch; the last epoch is shorter where the
            stage's epochs are fractional.
        validate: maps a model to its validation accuracy, 0 to 1.
        seed: seed of dropout and the like.
        state: the file to resume from.
        image_size: side to which images are resized on their way into the model.
        compiled: run the model through torch.compile, if this machine can.
        lr_scale: factor of the learning rate; 0 leaves the weights alone, to time the training.

    Example:
        >>> result = Trainer(model, objective, stage, ...).fit()
        >>> result.model, result.seconds
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        stage: Train,
        *,
        batches: Callable[[int], Iterable[Batch]],
        steps_per_epoch: int,
        validate: Callable[[nn.Module], float],
        seed: int,
        state: Path,
        events: Events | None = None,
        image_size: int | None = None,
        compiled: bool = False,
        lr_scale: float = 1.0,
    ) -> None:
        self._settles = stage.optimizer == "auto"
        stage = settle_optimizer(stage, model)
        self.model, self.objective, self.stage = model, objective, stage
        self.batches, self.steps_per_epoch, self.validate = batches, steps_per_epoch, validate
        self.seed, self.state, self.events = seed, state, events or Events()
        self.image_size, self.compiled, self.lr_scale = image_size, compiled, lr_scale
        self.device = next(model.parameters()).device
        self.total_steps = max(1, round(stage.length * steps_per_epoch))
        self.epochs = math.ceil(self.total_steps / steps_per_epoch)
        # An objective's own parameters, such as projections, are trained and saved too.
        self.beside = objective if isinstance(objective, nn.Module) else nn.Module()
        self.optimizer = build_optimizer(model, self.beside, stage)
        self.average = copy.deepcopy(model) if stage.ema else None
        self.phases: tuple[float, ...] = getattr(objective, "phases", (1.0,))
        self.history: list[Metrics] = []
        # The history as lines of JSON: sealing thousands of them after each epoch would take long.
        self.sealed = ""
        # How often the learning rate was lowered, because training diverged.
        self.lowered = 0
        # Of the epoch: sums of the losses, the last learning rate, and the number of images.
        self.sums: Losses = {}
        self.rate, self.images = 0.0, 0

    @property
    def result(self) -> nn.Module:
        """The model that training returns: the moving average, if there is one."""
        return self.model if self.average is None else self.average

    def fit(self) -> TrainResult:
        """Train to the end, from the last saved epoch on.

        If training diverges, it goes back to the last saved epoch and on from there at a lower
        learning rate, a few times.

        Raises:
            UserError: it still diverges; the epoch in which it does is not saved.
        """
        kept = read_state(self.state, self.events.log)
        start = copy.deepcopy(self._content()) if kept is None else kept
        if kept is not None:
            self._resume(kept)
        done = min(len(self.history) * self.steps_per_epoch, self.total_steps)
        if self._settles:
            self.events.log(f"  optimizer: {self.stage.optimizer}, lr {self.stage.lr:g}")
        self.events.on_train_start(self.stage.length, self.total_steps, done)
        started = time.monotonic()
        while len(self.history) < self.epochs:
            epoch, watch = len(self.history), LossWatch()
            try:
                for _ in self.steps(epoch):
                    watch.check(self.sums["loss"])
                self.finish_epoch(epoch, started)
            except DivergedError as error:
                self._go_back(f"{error} in epoch {epoch + 1}", start)
            else:
                started = time.monotonic()
        return TrainResult(self.result.eval(), self.stage.length, tuple(self.history))

    def steps(self, epoch: int) -> Iterator[Losses]:
        """Start an epoch and train one step at a time, yielding the losses of each step."""
        torch.manual_seed(self.seed * 100_003 + epoch + (distributed.rank() << 40))
        self.model.train()
        freeze_statistics(self.model)
        if start := getattr(self.objective, "on_epoch_start", None):
            start(max((past["val"] for past in self.history), default=0.0))
        self.sums = {"loss": torch.zeros((), device=self.device)}
        self.images = 0
        first = epoch * self.steps_per_epoch
        count = min(self.steps_per_epoch, self.total_steps - first)
        batches = islice(self.batches(epoch), count)
        label = f"epoch {format_epoch(epoch + 1, self.stage.length)}"
        for number, batch in enumerate(self.events.progress(batches, count, label), start=first):
            yield self._train_step(batch, number)

    def _train_step(self, batch: Batch, number: int) -> Losses:
        # The middle of the step: no step is lost to a learning rate of 0.
        progress = (number + 0.5) / self.total_steps
        _, within = find_phase(progress, self.phases)
        scale = self.lr_scale * LOWER**self.lowered
        rate = scale * learning_rate(self.stage.lr, self.stage.warmup, within)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.rate = rate
        self.images += len(batch.images) + batch.elsewhere
        loss, losses = self._step(batch, progress)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            update_average(self.average, self.model, self.stage.ema, number)
        # The sums stay on the device: reading them would wait for a GPU.
        for name, value in {"loss": loss, **losses}.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        return losses

    @cached_property
    def _step(self) -> TrainingStep:
        network = (
            compile_model(self.model) if self.compiled and can_compile(self.device) else self.model
        )
        student = make_forward(network, self.image_size)
        if distributed.world_size() > 1:
            return share_step(self.model, student, self.objective)

        def step(batch: Batch, progress: float) -> tuple[Tensor, Losses]:
            losses = self.objective(student, batch, progress)
            return total_loss(losses), losses

        return step

    def finish_epoch(self, epoch: int, started: float) -> Metrics:
        """Validate, save the state, and report the epoch's metrics.

        Args:
            started: start of the epoch, as given by time.monotonic.

        Raises:
            DivergedError: a loss, a weight or a logit is not finite; nothing is saved then.
        """
        count = min(self.steps_per_epoch, self.total_steps - epoch * self.steps_per_epoch)
        sums = distributed.all_reduce_sum(torch.stack(list(self.sums.values())))
        means = (sums / distributed.world_size() / count).tolist()
        # Reading the sums has waited for a GPU.
        trained = time.monotonic() - started
        if not all(map(math.isfinite, means)):
            raise DivergedError("the loss is not finite")
        check_weights(self.model, self.result)
        accuracy = self.validate(self.result)
        if not math.isfinite(accuracy):
            raise DivergedError("the model's output is not finite")
        seconds = (
            (self.history[-1]["seconds"] if self.history else 0.0) + time.monotonic() - started
        )
        metrics = {"epoch": epoch + 1} | dict(zip(self.sums, means, strict=True))
        speed = {"lr": self.rate, "images_per_second": self.images / max(trained, 1e-9)}
        self.history.append(metrics | speed | {"val": accuracy, "seconds": seconds})
        self.sealed += seal_line(self.history[-1])
        self._save()
        self.events.on_epoch_end(self.stage.length, self.history)
        return self.history[-1]

    def _content(self) -> dict[str, Any]:
        """Return everything that the next epoch needs."""
        return {
            "model": self.model.state_dict(),
            "beside": self.beside.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "history": self.history,
            "lowered": self.lowered,
        }

    def _save(self) -> None:
        write_state(self._content(), self.state)
        self._write_metrics()

    def _write_metrics(self) -> None:
        write_text(self.state.with_suffix(".jsonl"), self.sealed)

    def _restore(self, kept: dict[str, Any]) -> None:
        """Return to what `_content` returned.

        Raises:
            UserError: it belongs to something else.
        """
        try:
            self.model.load_state_dict(kept["model"])
            self.beside.load_state_dict(kept["beside"])
            self.optimizer.load_state_dict(kept["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(kept["average"])
            self.history = list(kept["history"])
            self.sealed = "".join(map(seal_line, self.history))
            # States of earlier releases do not have it.
            self.lowered = int(kept.get("lowered", 0))
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.state}: not the state of this stage; remove it, and the stage starts again"
                f" ({one_line(error)[:80]})"
            ) from error

    def _resume(self, kept: dict[str, Any]) -> None:
        self._restore(kept)
        # A kill may have come between writing the state and its metrics.
        self._write_metrics()
        self.events.log(f"  resuming after epoch {len(self.history)} of {self.stage.length:.4g}")

    def _go_back(self, why: str, start: dict[str, Any]) -> None:
        """Return to the last saved epoch, or to the `start`, and lower the learning rate.

        A resumed run comes to the same: it diverges again where this one did.

        Raises:
            UserError: the rate was lowered too often already.
        """
        lowered = self.lowered + 1
        if lowered > MAX_RETRIES:
            raise UserError(
                f"{why}, with {LOWER**self.lowered:.2g} of the rate too; lower the stage's lr and"
                " run again: the stages before are kept"
            )
        self._restore(read_state(self.state, self.events.log) or start)
        self.lowered = lowered
        self.events.log(
            f"  {why}: back to {f'epoch {len(self.history)}' if self.history else 'the start'},"
            f" at {LOWER:g} of the learning rate ({lowered} of at most {MAX_RETRIES} times)"
        )
