"""The rows of `accuracy.py`: each makes a network, from what our own run of the same seed left."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from bursts import Enough, Stopwatch
from rivals import HAND_SHAPED, RESNET18, fastnas, narrow, resnet18, torch_pruning_cut
from torch import nn

from compress.data.batches import plain_batches
from compress.distillation.methods import asks
from compress.models.cost import measure_cost
from compress.pipeline.context import Guide, StageContext, on_device, sample, side
from compress.pipeline.plan import make_plan
from compress.pipeline.pretrained import load_step
from compress.pipeline.run import RunResult, run
from compress.pipeline.stages import finetune_stage
from compress.recipe.model_spec import ModelSpec, Stem
from compress.recipe.schema import Prune, Recipe, Train
from compress.runtime.errors import UserError
from compress.runtime.files import write_text
from compress.training.events import Events
from compress.training.trainer import accuracy, forward

STEPS, TURNS = 12, 5  # of the bursts that tell how long a step takes


@dataclass(frozen=True)
class Setting:
    """What the rows of a seed share: our run, and what it worked with.

    Args:
        folder: the directory of our run.
        stages: the recipe's after `distill`, each with the epochs that our run took for it.
    """

    budget: int
    folder: Path
    result: RunResult
    ctx: StageContext
    stages: tuple[Prune | Train, ...]

    @property
    def finetunes(self) -> list[Train]:
        """The stages that fine-tune."""
        return [stage for stage in self.stages if isinstance(stage, Train)]

    @property
    def ending(self) -> list[Train]:
        """Those after the last cut."""
        cuts = [place for place, stage in enumerate(self.stages) if isinstance(stage, Prune)]
        return [stage for stage in self.stages[cuts[-1] :] if isinstance(stage, Train)]

    @property
    def epochs(self) -> float:
        """Of all fine-tuning together."""
        return sum(stage.epochs for stage in self.finetunes)

    @property
    def sparse(self) -> bool:
        """Whether single weights become zero, which then do not count."""
        return any(isinstance(stage, Prune) and stage.mode == "weights" for stage in self.stages)

    @property
    def size(self) -> int:
        """The side of the images that the result of every row takes, in pixels."""
        return side(self.finetunes[-1], self.ctx.data)

    def seconds(self, *kinds: str) -> float:
        """What the stages of these `kinds` took in our run; what all did, if none is named."""
        return sum(
            result.seconds for result in self.result.results if not kinds or result.kind in kinds
        )

    def student(self) -> nn.Module:
        """The distilled student, as our first round of pruning finds it."""
        distilled = next(result for result in self.result.results if result.kind == "distill")
        return self._load(self.folder / distilled.checkpoint, self.ctx.recipe.student)

    def final(self) -> nn.Module:
        """What our run ended with."""
        return self._load(self.result.model, self.ctx.recipe.student)

    def _load(self, path: Path, network: ModelSpec) -> nn.Module:
        return on_device(load_step(path, network).model, self.ctx.device)


def lay_out(recipe: Recipe, folder: Path, answers: Path, events: Events) -> Setting:
    """Do our run of `recipe` in `folder`, or take it from there if it is done.

    Raises:
        UserError: it is not one that cuts a network and trains it on; nothing has been trained by then.
    """
    kinds = [stage.kind for stage in recipe.stages]
    if "prune" not in kinds[:-1] or kinds[-1] != "finetune":
        raise UserError(
            "the other ways end in a cut and what comes after it: give a recipe that prunes and fine-tunes"
        )
    result = run(recipe, out=folder, events=events)
    plan = make_plan(recipe)
    ctx = StageContext(plan.recipe, plan.data, plan.device, events, folder, answers)
    for step, result in zip(plan.steps, result.results, strict=True):
        if result.kind == "teach":
            teacher = on_device(
                load_step(folder / step.file, plan.recipe.teacher).model, plan.device
            )
            ctx = replace(ctx, guide=Guide(teacher, side(step.stage, plan.data), result.val))
    as_run: list[Train | Prune] = []
    for step, result in zip(plan.steps, result.results, strict=True):
        stage = step.stage
        if isinstance(stage, Prune):
            as_run.append(stage)
        elif stage.kind == "finetune" and result.epochs:  # 0: no time was left for it
            as_run.append(replace(stage, epochs=result.epochs))
    return Setting(plan.limits.params or 0, folder, result, ctx, tuple(as_run))


@dataclass(frozen=True)
class Trained:
    """A network, and the seconds and fine-tuning epochs that it takes to get there from nothing."""

    model: nn.Module
    seconds: float
    epochs: float
    note: str = ""


def ours(setting: Setting, folder: Path) -> Trained:
    """Our run's result."""
    return Trained(setting.final(), setting.seconds(), setting.epochs)


def by_torch_pruning(setting: Setting, folder: Path, kd: bool) -> Trained:
    """As many rounds as ours and to the same targets, each cut by torch-pruning."""
    model, seconds = setting.student(), setting.seconds("teach", "distill")
    whole, cuts = measure_cost(model, (3, setting.size, setting.size)).params, 0
    rounds = len(setting.stages) - len(setting.finetunes)
    for number, stage in enumerate(setting.stages, start=1):
        if isinstance(stage, Train):
            model, spent = learn(model, stage, setting, folder / f"{number}.state", kd)
            seconds += spent
            continue
        cuts, started = cuts + 1, time.monotonic()
        target = (
            setting.budget
            if cuts == rounds
            else round(whole * (setting.budget / whole) ** (cuts / rounds))
        )
        size = side(stage, setting.ctx.data)
        example = torch.zeros(1, 3, size, size, device=setting.ctx.device)
        model = torch_pruning_cut(model, example, target, len(setting.ctx.data.classes))
        seconds += time.monotonic() - started
    return Trained(model, seconds, setting.epochs)


def by_fastnas(setting: Setting, folder: Path) -> Trained:
    """One cut by FastNAS, scored on 500 validation images; then all fine-tuning stages, one after another."""
    ctx, size, started = setting.ctx, side(setting.stages[0], setting.ctx.data), time.monotonic()

    @torch.no_grad()
    def calibrate(model: nn.Module) -> None:
        for batch in sample(ctx, 50 * 64, 64):  # as many batches as ModelOpt keeps
            forward(model, size)(batch.images)

    def score(model: nn.Module) -> float:
        return accuracy(
            model, islice(plain_batches(ctx.data, ctx.data.val, batch=500), 1), size=size
        )

    example = torch.zeros(1, 3, size, size, device=ctx.device)
    model, note = fastnas(setting.student(), example, setting.budget, calibrate, score)
    seconds = setting.seconds("teach", "distill") + time.monotonic() - started
    for number, stage in enumerate(setting.finetunes, start=1):
        model, spent = learn(model, stage, setting, folder / f"{number}.state")
        seconds += spent
    return Trained(model, seconds, setting.epochs, note)


def narrowed(setting: Setting, folder: Path, kd: bool) -> Trained:
    """ResNet18 with the student's stem, all its layers narrowed by one ratio, from scratch."""
    stem = setting.ctx.recipe.student.stem
    widths = narrow(RESNET18, setting.budget, stem, len(setting.ctx.data.classes))
    trained = from_scratch(widths, stem, setting.epochs, setting, folder, kd)
    return replace(trained, seconds=trained.seconds + setting.seconds("teach")) if kd else trained


def by_hand(setting: Setting, folder: Path) -> Trained:
    """A ResNet18 narrowed by hand, from scratch on the labels."""
    return from_scratch(hand_shape(setting), "small", setting.epochs, setting, folder)


def by_hand_as_long(setting: Setting, folder: Path, kinds: tuple[str, ...] = ()) -> Trained:
    """The same for as long as our stages of these `kinds` took, at the pace of those after our last cut.

    How many epochs that comes to is measured once and kept in `folder`: a row that was stopped goes on to the same end.
    """
    kept = folder / "epochs.json"
    if not kept.is_file():
        write_text(kept, json.dumps(epochs_as_long(setting, kinds)))
    return from_scratch(hand_shape(setting), "small", json.loads(kept.read_text()), setting, folder)


def epochs_as_long(setting: Setting, kinds: tuple[str, ...]) -> int:
    """The epochs of the network by hand that fit into what our stages of these `kinds` took."""
    trained = [
        result for result in setting.result.results if result.kind == "finetune" and result.epochs
    ]
    last = trained[-len(setting.ending) :]
    pace = (
        sum(result.seconds for result in last)
        / sum(result.epochs for result in last)
        * longer(setting)
    )
    return max(1, round(setting.seconds(*kinds) / pace))


def longer(setting: Setting) -> float:
    """How many times as long a step of the network by hand takes as one of our result: bursts in turns, the median."""

    def rate(model: nn.Module) -> float:
        events = Stopwatch(STEPS, setting.ctx.device)
        with suppress(Enough), TemporaryDirectory() as aside:
            stage = replace(on_labels(setting.ending[0]), compile=False)
            ctx = replace(setting.ctx, events=events, state=Path(aside) / "state")
            finetune_stage(on_device(model, ctx.device), stage, ctx)
        return events.rate

    classes = len(setting.ctx.data.classes)
    ratios = [
        rate(setting.final()) / rate(resnet18(hand_shape(setting), "small", classes))
        for _ in range(TURNS)
    ]
    return statistics.median(ratios)


def hand_shape(setting: Setting) -> tuple[int, ...]:
    """The widths by hand, evenly narrowed if the budget is too small for them."""
    return narrow(HAND_SHAPED, setting.budget, "small", len(setting.ctx.data.classes))


def from_scratch(
    widths: tuple[int, ...],
    stem: Stem,
    epochs: float,
    setting: Setting,
    folder: Path,
    kd: bool = False,
) -> Trained:
    """A ResNet18 of these `widths`, trained as ours is after its last cut; the first of those stages gets what the
    others leave of `epochs`."""
    torch.manual_seed(setting.ctx.recipe.seed)
    model: nn.Module = resnet18(widths, stem, len(setting.ctx.data.classes))
    first, *rest = setting.ending
    seconds, left = 0.0, max(1, epochs - sum(stage.epochs for stage in rest))
    stages = [replace(first, epochs=left), *rest]
    for number, stage in enumerate(stages, start=1):
        model, spent = learn(model, stage, setting, folder / f"{number}.state", kd)
        seconds += spent
    return Trained(model, seconds, sum(stage.epochs for stage in stages))


def learn(
    model: nn.Module, stage: Train, setting: Setting, state: Path, kd: bool = False
) -> tuple[nn.Module, float]:
    """Train `model` as `stage` says, on the labels alone or with KD; also the seconds that it took."""
    if not kd:
        stage = on_labels(stage)
    elif not asks(stage):
        stage = replace(stage, method="kd", alpha=0.5, temperature=4.0, fade=False)
    else:
        stage = replace(stage, stop_at_teacher=False)
    model = finetune_stage(
        on_device(model, setting.ctx.device), stage, replace(setting.ctx, state=state)
    )
    last = state.with_suffix(".jsonl").read_text().splitlines()[-1]
    return model, json.loads(last)["seconds"]


def on_labels(stage: Train) -> Train:
    """`stage` without anyone to listen to."""
    return replace(stage, method="labels", alpha=0.0, stop_at_teacher=False, views=0)


@dataclass(frozen=True)
class Row:
    """A way to a small network. `number` is what `--rows` asks for, `key` names its folder."""

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
)
