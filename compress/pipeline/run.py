"""A pipeline from end to end: each stage takes a model and gives back a model, and leaves a result."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from compress.data.batches import plain_batches
from compress.models import checkpoint
from compress.models.build import import_builder
from compress.models.cost import measure_cost, summary_table
from compress.pipeline import time_budget as patience
from compress.pipeline.context import Given, Guide, Rehearsals, StageContext, on_device, side
from compress.pipeline.events import RunEvents
from compress.pipeline.plan import Plan, Step, make_plan, origin
from compress.pipeline.pretrained import load_step
from compress.pipeline.run_dir import RunDirectory, StageResult, default_run_dir, open_run
from compress.pipeline.stages import pack, perform
from compress.recipe import load as recipes
from compress.recipe.overrides import apply_overrides
from compress.recipe.schema import Prune, Recipe, Train
from compress.runtime import distributed
from compress.runtime.device import can_compile, device_name, package_versions
from compress.runtime.errors import UserError
from compress.training.trainer import accuracy


@dataclass(frozen=True)
class RunResult:
    """A finished run: the weights file, and a result of every stage."""

    model: Path
    results: tuple[StageResult, ...]


@distributed.process_group()
def run(
    recipe: str | Path | Recipe = "default",
    *,
    out: str | Path | None = None,
    device: str = "auto",
    quick: bool = False,
    fresh: bool = False,
    logits_dir: Path | None = None,
    events: RunEvents | None = None,
    **overrides: Any,
) -> RunResult:
    """Do the stages of `recipe` in the directory `out`, or go on where an earlier run of it stopped.

    Args:
        recipe: a shipped recipe's name, a path to a TOML file, or a recipe that is already read.
        out: the run directory, made if need be; ``runs/`` and the recipe's name, budget and seed if left out.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        quick: the same stages in a few minutes, for trying out.
        fresh: throw away what an earlier run left in `out`.
        logits_dir: the folder for what teachers answered, of a caller who shares it among runs and then removes it; one of
            the run's own, removed at its end, if left out.
        events: who is told of progress.
        overrides: recipe keys to lay over the file's, as ``budget="50k"`` or ``teacher="resnet34"``; see
            `compress.recipe.schema.load`.

    Raises:
        UserError: the budget cannot be met, a name is unknown, the data cannot be had, or `out` holds another run.
            Nothing has been trained, and nothing written over, by then. Or, later: a stage failed.
    """
    title, events = (
        "recipe" if isinstance(recipe, Recipe) else Path(recipe).stem,
        events or RunEvents(),
    )
    events = events if distributed.is_main() else RunEvents()
    if not isinstance(recipe, Recipe):
        recipe = recipes.load_recipe(str(recipe), overrides)
    elif overrides:
        recipe = recipes.recipe_from_dict(
            apply_overrides(recipes.recipe_to_dict(recipe), overrides)
        )
    recipe = recipe.quick() if quick else recipe
    out = default_run_dir(title, recipe, quick) if out is None else out
    plan = make_plan(recipe, device)
    data = {"name": plan.data.name, "checksum": plan.data.checksum}
    if data != distributed.broadcast(data):
        raise UserError(
            f"{plan.data.name}: process {distributed.rank()} finds other images than the first process does"
        )
    begun = {"recipe": recipes.recipe_to_dict(recipe), "seed": recipe.seed, "data": data}
    with open_run(Path(out), begun, fresh) as rundir:
        if not distributed.broadcast(rundir.done):
            _Run(plan, rundir, logits_dir or rundir.answers, events).go_on()
        return RunResult(rundir.model, tuple(rundir.results))


@dataclass(frozen=True)
class _Run:
    """A run that is under way: what is to be done, where it is kept, where teachers' answers are, and who is told."""

    plan: Plan
    rundir: RunDirectory
    answers: Path
    events: RunEvents

    def go_on(self) -> None:
        """Do what is left to do."""
        plan, rundir = self.plan, self.rundir
        budget = plan.limits.as_dict() | ({} if plan.file is None else {"bytes": plan.file})
        device, compiled = device_name(plan.device), rundir.manifest.get("compiled", {})
        if rundir.manifest.get("device", device) != device:  # what paid there need not pay here
            compiled = {
                result.name: compiled[result.name]
                for result in rundir.results
                if result.name in compiled
            }
        rundir.manifest |= {
            "device": device,
            "versions": package_versions(),
            "budget": budget,
            "compiled": compiled,
        }
        rundir.write()
        for result in rundir.results:
            self.events.log(
                f"{result.name}: done before, taken from {rundir.path / result.checkpoint}"
            )
        for step in plan.steps[len(rundir.results) :]:
            self._do(step)
        self._test()
        last = load_step(rundir.path / plan.steps[-1].file, plan.steps[-1].network)
        known = origin(plan.recipe, plan.data, plan.device, rundir.results)
        checkpoint.save(replace(last, origin=known), rundir.model)
        rundir.write("done")
        rundir.tidy(rundir.answers)

    def _do(self, step: Step) -> None:
        """One stage: a model in, a model and a result out."""
        plan, rundir = self.plan, self.rundir
        size = (3, side(step.stage, plan.data), side(step.stage, plan.data))
        self.events.on_stage_start(
            step.place + 1, len(plan.steps) + 1, step.name, _about(step, plan.recipe)
        )
        model, ctx = self._laid_out(step)
        began = time.monotonic()
        ctx = replace(
            ctx, pays=self._pays(step), fit=self._fit(step, began) if plan.recipe.minutes else None
        )
        try:
            model = _performed(model, step, ctx)
        except UserError as error:
            raise UserError(f"{step.name}: {error}") from error
        cost = measure_cost(model, size, step.sparse)
        result = StageResult(
            name=step.name,
            kind=step.stage.kind,
            network=step.network.name,
            params=cost.params,
            macs=cost.macs,
            val=ctx.validate(model, size[-1]),
            seconds=round(max(time.monotonic() - began, _trained(ctx.state)), 1),
            checkpoint=step.file,
            image_size=size[-1],
            epochs=rundir.manifest.get("fitted", {}).get(
                step.name, getattr(step.stage, "epochs", 0)
            ),
        )
        before = rundir.results[-1] if rundir.results else None
        rundir.results.append(result)
        known = origin(plan.recipe, plan.data, plan.device, rundir.results)
        packed = pack(model, step.stage, step.network, plan.data, known, step.sparse)
        checkpoint.save(packed, rundir.path / step.file)
        if distributed.is_main():
            rundir.results[-1] = replace(result, bytes=(rundir.path / step.file).stat().st_size)
        rundir.results = distributed.broadcast(rundir.results)
        rundir.write()
        if distributed.is_main():  # who has the result on the disk by now
            ctx.state.unlink(missing_ok=True)
        self.events.on_stage_end(
            rundir.results[-1], before, summary_table(model, size, sparse=step.sparse)
        )

    def _laid_out(self, step: Step) -> tuple[nn.Module | None, StageContext]:
        """The model that a stage begins with, and what it works with.

        Models come from the files of earlier stages, whether or not those have only just been done: thus a run that was
        interrupted computes what one in a single go computes.
        """
        plan, rundir = self.plan, self.rundir
        ctx = StageContext(
            plan.recipe,
            plan.data,
            plan.device,
            self.events,
            (rundir.path / step.file).with_suffix(".state"),
            self.answers,
            target=step.target,
            room=plan.room(step),
            sparse=step.sparse,
            final=side(plan.steps[-1].stage, plan.data),
        )

        def result(of: Step) -> nn.Module:
            return on_device(load_step(rundir.path / of.file, of.network).model, plan.device)

        if isinstance(step.stage, Prune):
            first = next(each.place for each in plan.steps if isinstance(each.stage, Prune))
            ctx = replace(ctx, uncut=result(plan.steps[first - 1]))
        if guide := plan.guide(step):
            val, reached = rundir.results[guide.place].val, _reached(rundir.results[: step.place])
            if isinstance(step.stage, Train) and step.stage.stop_at_teacher and reached > val:
                self.events.log(f"  its guide ({guide.name}) is outgrown: the labels alone")
            else:  # as good is not better: it may be the same network
                ctx = replace(ctx, guide=Guide(result(guide), side(guide.stage, plan.data), val))
        return (result(plan.steps[step.place - 1]) if step.place else None), ctx

    def _pays(self, step: Step) -> Callable[[Rehearsals, float], bool]:
        """What finds out whether to compile a stage; the manifest remembers it, and after a kill it is the same
        on the same device."""

        def pays(rehearsals: Rehearsals, steps: float) -> bool:
            compiled: dict[str, bool] = self.rundir.manifest["compiled"]
            if step.name not in compiled:
                compiled[step.name] = False
                if can_compile(self.plan.device):
                    fitted = self.plan.recipe.minutes is not None
                    seconds = self._share(step) if fitted else math.inf
                    steps = math.inf if fitted else steps
                    compiled[step.name] = patience.pays(rehearsals, steps, seconds, self.events.log)
                self.rundir.write()
            return compiled[step.name]

        return pays

    def _fit(self, step: Step, began: float) -> Callable[..., float]:
        """What gives a stage that `began` then the epochs that fit; the manifest has them first, and a kill keeps
        them."""

        def fit(rehearsals: Rehearsals, steps: int, asked: float) -> float:
            fitted: dict[str, float] = self.rundir.manifest.setdefault("fitted", {})
            if step.name not in fitted:
                seconds = distributed.broadcast(self._share(step) - (time.monotonic() - began))
                epochs = patience.fit(seconds, rehearsals, steps, asked)
                fitted[step.name] = patience.worthwhile(epochs, steps, _learned(step, self.plan))
                self.rundir.write()
                told = f"{fitted[step.name]:.3g} epochs, about {max(seconds, 0) / 60:.1f} min"
                kept = "the network stays as it is"
                self.events.log(f"  fitted to the time left: {told if fitted[step.name] else kept}")
            return fitted[step.name]

        return fit

    def _share(self, step: Step) -> float:
        """The seconds that a stage has of those that are left."""
        left = 60 * (self.plan.recipe.minutes or 0) - sum(
            result.seconds for result in self.rundir.results
        )
        return patience.share(left, self._prices[step.place :])

    @cached_property
    def _prices(self) -> list[float]:
        return patience.prices(self.plan)

    def _test(self) -> None:
        """Read the test split, once, and score every stage's model on it."""
        plan, rundir = self.plan, self.rundir
        total = len(plan.steps) + 1
        self.events.on_stage_start(
            total, total, "test", "every stage's model on the test split, read once"
        )
        pool = plan.data.test().to(plan.device)
        scored = []
        pairs = list(zip(plan.steps, rundir.results, strict=True))
        for step, result in self.events.progress(pairs, len(pairs), "scoring"):
            kept = load_step(rundir.path / step.file, step.network)
            batches = plain_batches(plan.data, pool, batch=500, part=distributed.shard())
            last = step is plan.steps[-1]  # the result is scored in float32, as it will be used
            top1 = accuracy(
                on_device(kept.model, plan.device), batches, size=kept.input_size[-1], exact=last
            )
            scored.append(replace(result, test=top1))
        rundir.results = scored


def _performed(model: nn.Module | None, step: Step, ctx: StageContext) -> nn.Module:
    """What a stage makes of `model`. Several processes train together; what to prune the first decides for all."""
    if distributed.world_size() == 1 or not isinstance(step.stage, Prune):
        return perform(model, step.stage, ctx)
    cut = None
    if distributed.is_main():
        pruned = perform(model, step.stage, ctx)
        cut = checkpoint.to_dict(pack(pruned, step.stage, step.network, ctx.data, {}, step.sparse))
    own = import_builder(step.network.name) if step.network.source == "custom" else None
    return on_device(checkpoint.from_dict(distributed.broadcast(cut or {}), own).model, ctx.device)


def _reached(results: Sequence[StageResult]) -> float:
    """The student's validation accuracy when it was last trained, 0 to 1; 0 if it never was."""
    return next((r.val for r in reversed(results) if r.kind in ("distill", "finetune")), 0.0)


def _learned(step: Step, plan: Plan) -> bool:
    """Whether a stage begins with a network that has learned already, at its size of images."""
    before = plan.steps[step.place - 1].stage
    trained = step.stage.kind == "finetune" and before.kind in ("distill", "finetune")
    return trained and side(before, plan.data) == side(step.stage, plan.data)


def _about(step: Step, recipe: Recipe) -> str:
    stage, name = step.stage, step.network.name
    if isinstance(stage, Given):
        return f"{name}, given by {stage.file}"
    if isinstance(stage, Prune):
        return f"to {step.target}, {stage.mode} by {stage.importance}"
    what = f"{recipe.teacher.name} into {name}" if stage.kind == "distill" else name
    if recipe.minutes:
        return f"{what}, epochs fitted to {recipe.minutes:g} min in all"
    return f"{what}, {stage.epochs:g} {'epoch' if stage.epochs == 1 else 'epochs'}"


def _trained(state: Path) -> float:
    """Seconds that a training stage has taken by its own account, which leaves interruptions out; 0 for others."""
    lines = state.with_suffix(".jsonl")
    return (
        float(json.loads(lines.read_text().splitlines()[-1])["seconds"]) if lines.is_file() else 0.0
    )
