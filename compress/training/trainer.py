"""The one training loop of the project: a model, batches, an objective."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.models import checkpoint
from compress.models.fuse_bn import fuse_conv_bn
from compress.runtime import distributed
from compress.runtime.device import can_compile, full_precision, has_fast_bfloat16
from compress.runtime.errors import UserError
from compress.runtime.files import write_text
from compress.training import ddp as parallel
from compress.training.events import Events
from compress.training.muon import Muon
from compress.training.single_pixel_conv import SinglePixels

Forward = Callable[[Tensor], Tensor]
Metrics = dict[str, float]  # of one epoch: epoch, loss, val (0 to 1), seconds since the stage began


class Objective(Protocol):
    """What is to be made small: a student's forward pass, a batch and the progress (0 to 1) to a scalar loss.

    The parameters of one that is an nn.Module (projections, say) learn along with the model. One with `phases`, their
    ends as shares of the whole, the last 1, has the learning rate rise and fall once in each. One with `begin` is told
    before each epoch of the best validation accuracy so far, 0 to 1; one with `listens` may say then that it asks its
    guide nothing any more.
    """

    def __call__(self, student: Forward, batch: Batch, progress: float, /) -> Tensor: ...


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn; see `compress.recipe.schema.Train`."""

    epochs: float
    optimizer: Literal["sgd", "adamw", "muon"]
    lr: float
    weight_decay: float
    warmup: float
    ema: float

    def rate(self, progress: float) -> float:
        """The learning rate at `progress` (0 to 1): up in a line over the warm-up, then down in a line to zero."""
        rising = progress < self.warmup
        return self.lr * (
            progress / self.warmup if rising else (1 - progress) / max(1 - self.warmup, 1e-9)
        )


def train(
    model: nn.Module,
    batches: Callable[[int], Iterable[Batch]],
    objective: Objective,
    schedule: Schedule,
    *,
    steps: int,
    validate: Callable[[nn.Module], float],
    seed: int,
    state: Path,
    events: Events,
    size: int | None = None,
    compiled: bool = False,
) -> nn.Module:
    """Train `model` in place; what comes back is the model with its last weights, or with their running average.

    After every epoch all that the next one needs is written to `state`, and the metrics so far, one JSON line an
    epoch, beside it. If `state` is there already, training goes on from it and ends as if it had never stopped,
    since every random choice is a function of the epoch. Several processes, each with its part of every batch,
    compute what one would.

    Args:
        model: parameters that require no gradient are left as they are, and so are batch norms that have no others.
        batches: epoch to its batches, `steps` of them, on the model's device. The last epoch is a short one where
            the schedule's epochs are no whole number.
        validate: a model to its validation accuracy, 0 to 1.
        size: side to which images are resized on their way into the model.
        compiled: run the forward and backward pass through torch.compile, if this machine can.

    Raises:
        UserError: the loss became infinite or not a number; nothing of that epoch is kept.
    """
    device = next(model.parameters()).device
    beside = objective if isinstance(objective, nn.Module) else nn.Module()
    optimizer = _optimizer(list(model.parameters()), list(beside.parameters()), schedule)
    phases = getattr(objective, "phases", (1.0,))
    begin = getattr(objective, "begin", None)
    average = copy.deepcopy(model) if schedule.ema else None
    history = _resume(state, model, beside, optimizer, average)
    seconds = history[-1]["seconds"] if history else 0.0
    total = max(1, round(schedule.epochs * steps))
    epochs = math.ceil(total / steps)
    if history:
        events.log(f"  going on after epoch {len(history)} of {epochs}")
    student = forward(_compiled(model) if compiled and can_compile(device) else model, size)
    learn = (
        parallel.shared(model, student, objective)
        if distributed.world_size() > 1
        else partial(objective, student)
    )
    best = model if average is None else average
    for epoch in range(len(history), epochs):
        started, losses = time.monotonic(), torch.zeros((), device=device)
        due = min(steps, total - epoch * steps)
        torch.manual_seed(seed * 100_003 + epoch + (distributed.rank() << 40))
        model.train()
        _rest(model)
        if begin is not None:
            begin(max((past["val"] for past in history), default=0.0))
        shown = events.progress(islice(batches(epoch), due), due, f"epoch {epoch + 1}/{epochs}")
        for step, batch in enumerate(shown):
            progress = (
                epoch * steps + step + 0.5
            ) / total  # the middle of the step: no step is lost to a rate of 0
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(phase(progress, phases)[1])
            loss = learn(batch, progress)
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                _follow(average, model, schedule.ema, epoch * steps + step)
            losses += loss.detach()
        losses = distributed.all_reduce_sum(losses) / distributed.world_size()
        if not math.isfinite(losses):
            raise UserError(
                f"the loss is not finite after epoch {epoch + 1}; lower this stage's lr and begin anew"
            )
        accuracy = validate(best)
        seconds += time.monotonic() - started
        now = {"epoch": epoch + 1, "loss": float(losses) / due, "val": accuracy, "seconds": seconds}
        history.append(now)
        _save(state, model, beside, optimizer, average, history)
        events.on_epoch_end(schedule.epochs, history)
    return best.eval()


def phase(progress: float, ends: Sequence[float]) -> tuple[int, float]:
    """Which of the phases that end at `ends` it is at `progress`, counted from 0, and how far it has come, 0 to 1."""
    place = min(bisect_right(ends, progress), len(ends) - 1)
    begin = ends[place - 1] if place else 0.0
    return place, (progress - begin) / (ends[place] - begin)


def forward(model: Callable[..., Tensor], size: int | None = None, exact: bool = False) -> Forward:
    """`model` as training and teaching use it: images (B, 3, H, W) to float32 logits (B, classes).

    Images whose side is not `size` are resized first. Unless `exact`, the arithmetic is bfloat16 where that is fast.
    """

    def run(images: Tensor) -> Tensor:
        if size is not None and images.shape[-1] != size:
            images = F.interpolate(
                images, size=(size, size), mode="bilinear", antialias=images.shape[-1] > size
            )
        images = images.contiguous(memory_format=torch.channels_last)
        fast = not exact and has_fast_bfloat16(images.device)
        pixels = SinglePixels() if images.device.type == "cpu" else nullcontext()
        digits = full_precision() if exact else nullcontext()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=fast), pixels, digits:
            return model(images).float()

    return run


def teach(model: nn.Module, size: int | None = None) -> Forward:
    """`model` as a teacher: as `forward`, in evaluation mode and without gradients."""
    answer = forward(model.eval().requires_grad_(False), size)

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            return answer(images)

    return run


@torch.inference_mode()
def accuracy(
    model: nn.Module, batches: Iterable[Batch], *, size: int | None = None, exact: bool = True
) -> float:
    """Top-1 accuracy of `model` in evaluation mode, 0 to 1; `size` and `exact` as for `forward`.

    Of several processes each has a part of the batches, and all are given the accuracy on the whole.
    """
    right: Tensor | int = 0  # stays on the device: to look at it would be to wait for it
    seen = 0
    answer = forward(fuse_conv_bn(model), size, exact)
    for batch in batches:
        right = right + (answer(batch.images).argmax(1) == batch.targets.argmax(1)).sum()
        seen += len(batch.images)
    right, seen = map(int, distributed.all_reduce_sum(torch.tensor([int(right), seen])))
    return right / max(seen, 1)


def _compiled(model: nn.Module) -> Callable[..., Tensor]:
    """Compiled as if it were this process's first: what was compiled before makes later networks' shapes variable, and
    a stage must compute the same after a kill."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(
        logging.ERROR
    )  # it warns of a GPU that nobody asked for
    torch._dynamo.reset()
    return torch.compile(model, dynamic=False)


def _optimizer(
    parameters: list[nn.Parameter], beside: list[nn.Parameter], schedule: Schedule
) -> torch.optim.Optimizer:
    """Weight decay on weights alone: biases and normalizations (one-dimensional) are left to themselves."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        {"params": beside, "weight_decay": schedule.weight_decay, "turn": False},
    ]
    if schedule.optimizer == "muon":
        return Muon(groups, lr=schedule.lr)
    if schedule.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=schedule.lr, momentum=0.9, nesterov=True)
    fused = parameters[0].device.type in ("cpu", "cuda")  # one pass over memory, not ten
    return torch.optim.AdamW(groups, lr=schedule.lr, fused=fused)


def _rest(model: nn.Module) -> None:
    """Evaluation mode for every part of `model` in which nothing learns: its running statistics are frozen too."""
    for module in model.modules():
        learning = [parameter.requires_grad for parameter in module.parameters()]
        if learning and not any(learning):
            module.eval()


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float, seen: int) -> None:
    """Take `model` into the running average of the `seen` before it, buffers too: integers as they are.

    The memory grows to 1 / (1 - decay) steps, so that short stages are averaged too. torch's own AveragedModel counts
    on the device, and every step would wait for a GPU to have counted.
    """

    def tensors(of: nn.Module, floating: bool) -> list[Tensor]:
        return [
            t for t in chain(of.parameters(), of.buffers()) if t.is_floating_point() == floating
        ]

    share = 1 - min(decay, (1 + seen) / (10 + seen)) if seen else 1.0
    torch._foreach_lerp_(tensors(average, True), tensors(model, True), share)
    if counts := tensors(average, False):
        torch._foreach_copy_(counts, tensors(model, False))


def _save(
    state: Path,
    model: nn.Module,
    beside: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    history: list[Metrics],
) -> None:
    kept = {
        "model": model.state_dict(),
        "beside": beside.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state_dict() if average is not None else None,
        "history": history,
    }
    checkpoint.write_tensors(kept, state)
    _write_metrics(state, history)


def _write_metrics(state: Path, history: list[Metrics]) -> None:
    write_text(state.with_suffix(".jsonl"), "".join(json.dumps(line) + "\n" for line in history))


def _resume(
    state: Path,
    model: nn.Module,
    beside: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
) -> list[Metrics]:
    """Lay in what `state` holds, if it is there: the epochs that are done."""
    kept = distributed.broadcast(
        checkpoint.read_tensors(state) if distributed.is_main() and state.is_file() else None
    )
    if kept is None:
        return []
    model.load_state_dict(kept["model"])
    beside.load_state_dict(kept.get("beside", {}))
    optimizer.load_state_dict(kept["optimizer"])
    if average is not None:
        average.load_state_dict(kept["average"])
    history: list[Metrics] = kept["history"]
    _write_metrics(state, history)  # a kill may have come between the state and its metrics
    return history


def steps_of(samples: int, batch: int) -> int:
    """Whole batches in an epoch of `samples`; a data set smaller than one batch is one short batch."""
    return max(samples // batch, 1)
