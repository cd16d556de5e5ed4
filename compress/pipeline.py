"""A pipeline from end to end: each stage takes a model and gives back a model, and leaves a record."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import checkpoint
from compress import recipe as recipes
from compress.checkpoint import Checkpoint
from compress.data.batches import plain_batches
from compress.data.open import Data, open_data
from compress.errors import UserError, one_line
from compress.machine import device_name, pick_device, versions
from compress.models.build import build, own_builder, skeleton
from compress.models.network import Network
from compress.pruning.importance import importance
from compress.pruning.pruner import least
from compress.recipe import Prune, Recipe, Stage, parse_budget
from compress.rundir import RunDirectory, open_run
from compress.stages import Given, Workbench, check_methods, on_device, pack, perform, side
from compress.summary import count, table
from compress.training import accuracy
from compress.watch import Record, Watch


@dataclass(frozen=True)
class Result:
    """A finished run: the weights file, and a record of every stage."""

    model: Path
    records: tuple[Record, ...]


@dataclass(frozen=True)
class Step:
    """A stage in its place.

    Args:
        name: what it is called, as "prune 2".
        network: what its model is built from.
        target: parameters to prune to, for a prune stage.
        file: its weights file, within the run directory.
    """

    name: str
    stage: Stage | Given
    network: Network
    target: int | None
    file: str


@dataclass(frozen=True)
class Plan:
    """All that is settled before a run begins: nothing in it can be wrong any more."""

    recipe: Recipe
    data: Data
    device: torch.device
    budget: int
    steps: tuple[Step, ...]


def run(
    recipe: str | Path | Recipe = "default",
    *,
    out: str | Path | None = None,
    device: str = "auto",
    quick: bool = False,
    fresh: bool = False,
    watch: Watch | None = None,
    **overrides: Any,
) -> Result:
    """Do the stages of `recipe` in the directory `out`, or go on where an earlier run of it stopped.

    Args:
        recipe: a shipped recipe's name, a path to a TOML file, or a recipe that is already read.
        out: the run directory, made if need be; ``runs/`` and the recipe's name, budget and seed if left out.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        quick: the same stages in a few minutes, for trying out.
        fresh: throw away what an earlier run left in `out`.
        watch: who is told of progress.
        overrides: recipe keys to lay over the file's, as ``budget="50k"`` or ``teacher="resnet34"``; see
            `compress.recipe.load`.

    Raises:
        UserError: the budget cannot be met, a name is unknown, the data cannot be had, or `out` holds another run.
            Nothing has been trained, and nothing written over, by then. Or, later: a stage failed.
    """
    title, watch = "recipe" if isinstance(recipe, Recipe) else Path(recipe).stem, watch or Watch()
    if not isinstance(recipe, Recipe):
        recipe = recipes.load(str(recipe), overrides)
    elif overrides:
        recipe = recipes.lay_over(recipes.plain(recipe), overrides)
    recipe = recipe.quick() if quick else recipe
    if out is None:
        out = Path("runs") / f"{title}{'-quick' if quick else ''}-{recipe.budget}-seed{recipe.seed}".replace("%", "pc")
    plan = make_plan(recipe, device)
    data = {"name": plan.data.name, "checksum": plan.data.checksum}
    begun = {"recipe": recipes.plain(recipe), "seed": recipe.seed, "data": data}
    with open_run(Path(out), begun, fresh) as rundir:
        if not rundir.done:
            _go_on(plan, rundir, watch)
        return Result(rundir.model, tuple(rundir.records))


def make_plan(recipe: Recipe, device: str = "auto") -> Plan:
    """What `recipe` comes to on this machine.

    Raises:
        UserError: whatever is wrong with it.
    """
    on = pick_device(device)
    _check_names(recipe)
    given = None if recipe.weights is None else _load(Path(recipe.weights), recipe.teacher)
    data = open_data(recipe.data, size=recipe.size, limit=recipe.limit, share=recipe.share, seed=recipe.seed)
    data = replace(data, train=data.train.to(on), val=data.val.to(on))
    stages: list[Stage | Given] = list(recipe.stages)
    if given is not None:
        if given.classes != data.classes:
            raise UserError(f"{recipe.weights}: this teacher knows other classes than {data.name}'s")
        data = replace(data, mean=given.mean, std=given.std)  # so that it sees images as it learned to
        recipe = replace(recipe, teacher=given.network)
        stages = [Given(given), *(stage for stage in recipe.stages if stage.kind != "teach")]
    for network, kinds in ((recipe.teacher, ("teach",)), (recipe.student, ("distill", "prune", "finetune"))):
        _try(network, {side(stage, data) for stage in stages if stage.kind in kinds}, len(data.classes))
    check_methods(recipe, stages, data)
    budget, targets = _targets(recipe, stages, data)
    steps = tuple(
        Step(
            name=name,
            stage=stage,
            network=recipe.teacher if stage.kind == "teach" else recipe.student,
            target=target,
            file=f"stages/{number:02d}-{name.replace(' ', '-')}.pth",
        )
        for number, (name, stage, target) in enumerate(zip(_names(stages), stages, targets, strict=True), start=1)
    )
    return Plan(recipe, data, on, budget, steps)


def _go_on(plan: Plan, rundir: RunDirectory, watch: Watch) -> None:
    """Do what is left to do in `rundir`."""
    rundir.manifest |= {"device": device_name(plan.device), "versions": versions(), "budget": plan.budget}
    rundir.write()
    for record in rundir.records:
        watch.note(f"{record.name}: done before, taken from {rundir.path / record.checkpoint}")
    for step in plan.steps[len(rundir.records) :]:
        _do(step, plan, rundir, watch)
    _test(plan, rundir, watch)
    last = _load(rundir.path / plan.steps[-1].file, plan.steps[-1].network)
    checkpoint.save(replace(last, origin=_origin(plan, rundir)), rundir.model)
    rundir.write("done")
    rundir.tidy("answers")


def _do(step: Step, plan: Plan, rundir: RunDirectory, watch: Watch) -> None:
    """One stage: a model in, a model and a record out."""
    number, size = plan.steps.index(step) + 1, (3, side(step.stage, plan.data), side(step.stage, plan.data))
    watch.begin(number, len(plan.steps) + 1, step.name, _about(step, plan.recipe))
    model, bench = _laid_out(step, plan, rundir, watch)
    began = time.monotonic()
    try:
        model = perform(model, step.stage, bench)
    except UserError as error:
        raise UserError(f"{step.name}: {error}") from error
    cost = count(model, size)
    record = Record(
        name=step.name,
        kind=step.stage.kind,
        network=step.network.name,
        params=cost.params,
        macs=cost.macs,
        val=bench.validate(model, size[-1]),
        seconds=round(max(time.monotonic() - began, _trained(bench.state)), 1),
        checkpoint=step.file,
        size=size[-1],
        epochs=getattr(step.stage, "epochs", 0),
    )
    before = rundir.records[-1] if rundir.records else None
    rundir.records.append(record)
    origin = _origin(plan, rundir)
    checkpoint.save(pack(model, step.stage, step.network, plan.data, origin), rundir.path / step.file)
    rundir.write()
    bench.state.unlink(missing_ok=True)
    watch.end(record, before, table(model, size))


def _laid_out(step: Step, plan: Plan, rundir: RunDirectory, watch: Watch) -> tuple[nn.Module | None, Workbench]:
    """The model that a stage begins with, and what it works with.

    Models come from the files of earlier stages, whether or not those have only just been done: thus a run that was
    interrupted computes what one in a single go computes.
    """
    state, place = (rundir.path / step.file).with_suffix(".state"), plan.steps.index(step)
    bench = Workbench(plan.recipe, plan.data, plan.device, watch, state, rundir.path / "answers", target=step.target)

    def result(of: Step) -> nn.Module:
        return on_device(_load(rundir.path / of.file, of.network).model, plan.device)

    for earlier in plan.steps[:place]:
        if earlier.stage.kind == "teach":
            bench = replace(bench, teacher=result(earlier), teacher_size=side(earlier.stage, plan.data))
    return (result(plan.steps[place - 1]) if place else None), bench


def _test(plan: Plan, rundir: RunDirectory, watch: Watch) -> None:
    """Read the test split, once, and score every stage's model on it."""
    total = len(plan.steps) + 1
    watch.begin(total, total, "test", "every stage's model on the test split, read once")
    pool = plan.data.test().to(plan.device)
    scored = []
    pairs = list(zip(plan.steps, rundir.records, strict=True))
    for step, record in watch.track(pairs, len(pairs), "scoring"):
        kept = _load(rundir.path / step.file, step.network)
        batches = plain_batches(plan.data, pool, batch=500)
        last = step is plan.steps[-1]  # the result is scored in float32, as it will be used
        top1 = accuracy(on_device(kept.model, plan.device), batches, size=kept.input_size[-1], exact=last)
        scored.append(replace(record, test=top1))
    rundir.records = scored


def _check_names(recipe: Recipe) -> None:
    for network in (recipe.teacher, recipe.student):
        if ":" in network.name:
            own_builder(network.name)
        elif network.pretrained:  # the download is had now, or refused now
            build(network, 10)
        else:
            skeleton(network, 10)
    for stage in recipe.stages:
        if isinstance(stage, Prune):
            importance(stage.importance)


def _try(network: Network, sizes: set[int], classes: int) -> None:
    """Show `network` one image of each of `sizes` pixels, before any time is spent on it."""
    model = build(replace(network, pretrained=False), classes).eval()
    for size in sorted(sizes):
        try:
            with torch.inference_mode():
                answer = tuple(model(torch.zeros(1, 3, size, size)).shape)
        except Exception as error:  # whatever a network may raise, it does not take such images
            reason = one_line(error)
            raise UserError(
                f"network {network.name!r} does not take images of {size}×{size} pixels: {reason}"
            ) from error
        if answer != (1, classes):
            raise UserError(f"network {network.name!r} answers {answer} to one image, where (1, {classes}) was due")


def _targets(recipe: Recipe, stages: list[Stage | Given], data: Data) -> tuple[int, list[int | None]]:
    """The budget in parameters, and what each prune stage aims at: spaced evenly in ratio, from student to budget."""
    example = torch.zeros(1, 3, data.size, data.size)
    student = build(replace(recipe.student, pretrained=False), len(data.classes))
    whole = count(student, (3, data.size, data.size)).params
    budget = parse_budget(str(recipe.budget)).of(whole)
    places = [i for i, stage in enumerate(stages) if isinstance(stage, Prune)]
    has = f"budget {recipe.budget}: the student {recipe.student.name} has {whole:,} parameters"
    if places and budget >= whole:
        raise UserError(f"{has}, there is nothing to prune; choose a smaller budget or a bigger student")
    if not places and budget < whole:
        raise UserError(f"{has}, and the recipe has no prune stage")
    if places and budget < (lowest := least(student, example).params):
        raise UserError(f"budget {recipe.budget}: out of reach, the least for {recipe.student.name} is {lowest:,}")
    targets: list[int | None] = [None] * len(stages)
    for done, i in enumerate(places, start=1):
        targets[i] = budget if done == len(places) else round(whole * (budget / whole) ** (done / len(places)))
    return budget, targets


def _names(stages: list[Stage | Given]) -> list[str]:
    """What the stages are called: a kind that comes more than once is numbered."""
    kinds = [stage.kind for stage in stages]
    return [
        f"{kind} {kinds[: place + 1].count(kind)}" if kinds.count(kind) > 1 else kind
        for place, kind in enumerate(kinds)
    ]


def _about(step: Step, recipe: Recipe) -> str:
    stage, name = step.stage, step.network.name
    if isinstance(stage, Given):
        return f"{name}, given by {recipe.weights}"
    if isinstance(stage, Prune):
        return f"to {step.target:,} parameters, by {stage.importance}"
    what = f"{recipe.teacher.name} into {name}" if stage.kind == "distill" else name
    return f"{what}, {stage.epochs} {'epoch' if stage.epochs == 1 else 'epochs'}"


def _trained(state: Path) -> float:
    """Seconds that a training stage has taken by its own account, which leaves interruptions out; 0 for others."""
    lines = state.with_suffix(".jsonl")
    return float(json.loads(lines.read_text().splitlines()[-1])["seconds"]) if lines.is_file() else 0.0


def _load(path: Path, network: Network) -> Checkpoint:
    """A weights file whose network the recipe vouches for, even if it is a person's own."""
    return checkpoint.load(path, own=own_builder(network.name) if ":" in network.name else None)


def _origin(plan: Plan, rundir: RunDirectory) -> dict[str, Any]:
    """What a weights file says of how it came to be."""
    kept = ("name", "params", "macs", "val", "test", "seconds", "epochs")
    return {
        "recipe": rundir.manifest["recipe"],
        "device": rundir.manifest["device"],
        "versions": rundir.manifest["versions"],
        "data_checksum": plan.data.checksum,
        "stages": [{key: asdict(record)[key] for key in kept} for record in rundir.records],
    }
