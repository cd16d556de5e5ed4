"""The rows of `accuracy.py`: each makes a network, given our run of the same seed."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bursts import time_burst
from rivals import HAND_SHAPED, RESNET18, Refused, fastnas, narrow, resnet18, torch_pruning_cut
from setting import Setting
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compress.data.batches import plain_batches
from compress.distillation.objectives import uses_logits
from compress.models.cost import measure_cost
from compress.models.memory_format import to_channels_last
from compress.pipeline.stages import run_stage
from compress.pipeline.step import Step
from compress.pipeline.train_stage import build_trainer
from compress.recipe.registry import Stem
from compress.recipe.stages import Train
from compress.runtime.errors import UserError, one_line
from compress.runtime.files import write_text
from compress.training.evaluate import measure_accuracy
from compress.training.forward import make_forward, resize_images
from compress.training.schedule import count_steps

# Steps of a burst that times training, and number of bursts.
STEPS, TURNS = 12, 5


@dataclass(frozen=True)
class Trained:
    """A network, with the total seconds and fine-tuning epochs that it takes from the start."""

    model: nn.Module
    seconds: float
    epochs: float
    note: str = ""


def ours(setting: Setting, folder: Path) -> Trained:
    """Return the result of our run."""
    return Trained(setting.final(), setting.seconds(), setting.epochs)


def by_torch_pruning(setting: Setting, folder: Path, kd: bool) -> Trained:
    """Prune by torch-pruning, in as many rounds as our run and to the same targets."""
    model, seconds = setting.student(), setting.seconds("teach", "distill")
    size = setting.image_size
    original, cuts = measure_cost(model, (3, size, size)).params, 0
    rounds = len(setting.steps) - len(setting.finetunes)
    for number, step in enumerate(setting.steps, start=1):
        if step.train:
            model, spent = learn(model, step, setting, folder / f"{number}.state", kd)
            seconds += spent
            continue
        cuts, started = cuts + 1, time.monotonic()
        target = setting.budget
        if cuts < rounds:
            target = round(original * (setting.budget / original) ** (cuts / rounds))
        example = torch.zeros(1, 3, step.image_size, step.image_size, device=setting.plan.device)
        model = torch_pruning_cut(model, example, target, setting.classes)
        seconds += time.monotonic() - started
    return Trained(model, seconds, setting.epochs)


def by_fastnas(setting: Setting, folder: Path) -> Trained:
    """Prune once by FastNAS, then run all fine-tuning stages one after another.

    FastNAS scores networks on 500 validation images.
    """
    plan, first, started = setting.plan, setting.steps[0], time.monotonic()
    size = first.image_size

    @torch.no_grad()
    def calibrate(model: nn.Module) -> None:
        ctx = setting.context(first, folder / "calibrate.state")
        # As many batches as ModelOpt uses.
        for batch in ctx.sample_batches(50 * 64, 64):
            make_forward(model, size)(batch.images)

    def score(model: nn.Module) -> float:
        batches = islice(plain_batches(plan.data, plan.data.val, batch_size=500), 1)
        return measure_accuracy(model, batches, plan.task, image_size=size)

    example = torch.zeros(1, 3, size, size, device=plan.device)
    model, note = fastnas(setting.student(), example, setting.budget, calibrate, score)
    seconds = setting.seconds("teach", "distill") + time.monotonic() - started
    for number, step in enumerate(setting.finetunes, start=1):
        model, spent = learn(model, step, setting, folder / f"{number}.state")
        seconds += spent
    return Trained(model, seconds, setting.epochs, note)


def by_fasterai(setting: Setting, folder: Path) -> Trained:
    """Prune and distill by fasterai, for as many epochs as our run fine-tunes.

    fasterai prunes during the first half of them and trains on during the second, on images
    augmented as in our first stage after the last cut.
    """
    try:
        from by_fasterai import Views, prune_and_distill
    except ImportError as error:
        raise Refused(f"fasterai cannot be imported: {one_line(error)}") from error
    if setting.teacher is None:
        raise Refused("there is no teacher")
    student, teacher = setting.student(), setting.teacher.model
    # fasterai passes the same images to both.
    hooks = [
        resize_first(student, setting.image_size),
        resize_first(teacher, setting.teacher.image_size),
    ]
    plan, started = setting.plan, time.monotonic()
    steps = count_steps(plan.data.train_count, plan.batch_size)
    half = max(1, round(setting.epochs / 2))
    epochs = (half, max(1, round(setting.epochs) - half))
    try:
        model = prune_and_distill(
            student,
            teacher,
            Views(setting.view, steps),
            plan.task.label_loss,
            setting.budget,
            epochs,
        )
    except (Refused, UserError, OSError, MemoryError):
        raise
    # A fault of fasterai ends this row only.
    except Exception as error:
        raise Refused(f"fails: {type(error).__name__}: {one_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    seconds = setting.seconds("teach", "distill") + time.monotonic() - started
    return Trained(model, seconds, sum(epochs))


def resize_first(model: nn.Module, side: int) -> RemovableHandle:
    """Let `model` resize its images to `side` pixels first, as our training does."""

    def resize(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (images,) = inputs
        return (resize_images(images, side),)

    return model.register_forward_pre_hook(resize)


def narrowed(setting: Setting, folder: Path, kd: bool) -> Trained:
    """Train an evenly narrowed ResNet18 with the student's stem from scratch."""
    stem = setting.plan.recipe.student.stem
    widths = narrow(RESNET18, setting.budget, stem, setting.classes)
    return from_scratch(widths, stem, setting.epochs, setting, folder, kd)


def by_hand(setting: Setting, folder: Path, kd: bool = False) -> Trained:
    """Train a ResNet18 that was narrowed by hand from scratch."""
    return from_scratch(hand_shape(setting), "small", setting.epochs, setting, folder, kd)


def by_hand_as_long(
    setting: Setting, folder: Path, kinds: tuple[str, ...] = (), kd: bool = False
) -> Trained:
    """Train the same network for as long as our stages of `kinds` took, by default all.

    Its epochs follow from the speed of our stages after the last cut. Their number is measured once
    and stored in `folder`, so that an interrupted row resumes to the same end.
    """
    kept = folder / "epochs.json"
    if not kept.is_file():
        write_text(kept, json.dumps(epochs_as_long(setting, kinds)))
    epochs = json.loads(kept.read_text())
    return from_scratch(hand_shape(setting), "small", epochs, setting, folder, kd)


def epochs_as_long(setting: Setting, kinds: tuple[str, ...]) -> int:
    """Return the epochs of the network by hand that take as long as our stages of `kinds`."""
    trained = [r for r in setting.result.results if r.kind == "finetune" and r.epochs]
    last = trained[-len(setting.ending) :]
    pace = sum(r.seconds for r in last) / sum(r.epochs for r in last) * relative_step(setting)
    return max(1, round(setting.seconds(*kinds) / pace))


def relative_step(setting: Setting) -> float:
    """Return the duration of a step of the network by hand, relative to our final network's.

    It is the median over pairs of bursts.
    """

    def rate(model: nn.Module) -> float:
        def training() -> Iterator[int]:
            with TemporaryDirectory() as aside:
                step = on_labels(setting.ending[0])
                ctx = setting.context(step, Path(aside) / "state")
                assert step.train is not None
                laid_out = to_channels_last(model).to(setting.plan.device)
                trainer = build_trainer(laid_out, replace(step.train, compile=False), ctx)
                for epoch in count():
                    for _ in trainer.steps(epoch):
                        yield min(setting.plan.batch_size, setting.plan.data.train_count)

        return time_burst(training, STEPS, setting.plan.device).rate

    shape = hand_shape(setting)
    ratios = [
        rate(setting.final()) / rate(resnet18(shape, "small", setting.classes))
        for _ in range(TURNS)
    ]
    return statistics.median(ratios)


def hand_shape(setting: Setting) -> tuple[int, ...]:
    """Return the widths by hand, narrowed evenly if the budget is too small for them."""
    return narrow(HAND_SHAPED, setting.budget, "small", setting.classes)


def from_scratch(
    widths: tuple[int, ...],
    stem: Stem,
    epochs: float,
    setting: Setting,
    folder: Path,
    kd: bool = False,
) -> Trained:
    """Train a ResNet18 of these `widths` like our network after its last cut.

    The first of those stages trains for all of `epochs` that the others leave. With KD, the time in
    which our teacher was trained counts, too.
    """
    torch.manual_seed(setting.plan.recipe.seed)
    model: nn.Module = resnet18(widths, stem, setting.classes)
    first, *rest = setting.ending
    assert first.train is not None
    others = sum(step.train.length for step in rest if step.train)
    first = replace(first, stage=replace(first.train, epochs=max(1, epochs - others)))
    seconds, total = setting.seconds("teach") if kd else 0.0, 0.0
    for number, step in enumerate([first, *rest], start=1):
        model, spent = learn(model, step, setting, folder / f"{number}.state", kd)
        seconds += spent
        total += step.train.length if step.train else 0
    return Trained(model, seconds, total)


def learn(
    model: nn.Module, step: Step, setting: Setting, state: Path, kd: bool = False
) -> tuple[nn.Module, float]:
    """Train `model` as in `step`, on the labels alone or with KD.

    Returns:
        The trained model, and the duration of the training in seconds.
    """
    train = step.train
    assert train is not None
    if kd and setting.teacher is None:
        raise Refused("there is no teacher")
    if not kd:
        step = on_labels(step)
    elif not uses_logits(train):
        stage = replace(train, method="kd", alpha=0.5, temperature=4.0, fade=False)
        step = replace(step, stage=stage)
    else:
        step = replace(step, stage=replace(train, stop_at_teacher=False))
    ctx = setting.context(step, state)
    output = run_stage(to_channels_last(model).to(setting.plan.device), ctx)
    return output.model, output.seconds


def on_labels(step: Step) -> Step:
    """Return `step` without a teacher."""
    assert isinstance(step.stage, Train)
    stage = replace(step.stage, method="labels", alpha=0.0, stop_at_teacher=False, views=0)
    return replace(step, stage=stage)


@dataclass(frozen=True)
class Row:
    """A row of the table: a way to a small network.

    Args:
        number: number of the row in `--rows`.
        key: name of the row's folder.
    """

    number: int
    key: str
    title: str
    make: Callable[[Setting, Path], Trained]


NO_TEACHER = ("distill", "prune", "finetune")
ROWS = (
    Row(1, "ours", "ours", ours),
    Row(2, "torch-pruning", "torch-pruning, labels", partial(by_torch_pruning, kd=False)),
    Row(3, "torch-pruning-kd", "torch-pruning, KD", partial(by_torch_pruning, kd=True)),
    Row(
        4, "narrowed", "ResNet18 narrowed evenly, from scratch, labels", partial(narrowed, kd=False)
    ),
    Row(4, "narrowed-kd", "ResNet18 narrowed evenly, from scratch, KD", partial(narrowed, kd=True)),
    Row(5, "fastnas", "ModelOpt FastNAS, labels", by_fastnas),
    Row(6, "by-hand", "ResNet18 narrowed by hand, from scratch, labels", by_hand),
    Row(7, "by-hand-all", "as 6, for all of our time", by_hand_as_long),
    Row(
        8,
        "by-hand-no-teacher",
        "as 6, for our time without the teacher's",
        partial(by_hand_as_long, kinds=NO_TEACHER),
    ),
    Row(9, "by-hand-kd", "ResNet18 narrowed by hand, from scratch, KD", partial(by_hand, kd=True)),
    Row(10, "fasterai", "fasterai, KD", by_fasterai),
    Row(
        11,
        "by-hand-kd-all",
        "as 9, for all of our time",
        partial(by_hand_as_long, kinds=NO_TEACHER, kd=True),
    ),
)
