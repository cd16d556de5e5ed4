"""The run directory: what was done, what came of it, and where to go on after a kill."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import nn

from compress import checkpoint
from compress import recipe as recipes
from compress.data.batches import plain_batches
from compress.data.open import Data, open_data
from compress.errors import UserError
from compress.files import write_text
from compress.machine import device_name, pick_device, versions
from compress.models.build import build, own_builder
from compress.models.network import Network
from compress.pruning.importance import importance
from compress.pruning.pruner import least
from compress.recipe import Prune, Recipe, Stage, parse_budget
from compress.stages import Workbench, on_device, pack, perform, side
from compress.summary import count, table
from compress.training import accuracy
from compress.watch import Record, Watch

MANIFEST, MODEL = "run.json", "model.pth"


@dataclass(frozen=True)
class Result:
    """A finished run: the weights file, and a record of every stage."""

    model: Path
    records: tuple[Record, ...]


def run(
    recipe: str | Recipe = "default",
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
        overrides: recipe keys to lay over the file's, as ``budget="50k"``; see `compress.recipe.Recipe`.

    Raises:
        UserError: the budget cannot be met, a name is unknown, the data cannot be had, or `out` holds another run.
            Nothing has been trained, and nothing written over, by then.
    """
    title = Path(recipe).stem if isinstance(recipe, str) else "recipe"
    if isinstance(recipe, str):
        recipe = recipes.load(recipe, overrides)
    elif overrides:
        recipe = recipes.check(recipes.plain(recipe) | overrides)
    recipe = recipe.quick() if quick else recipe
    if out is None:
        out = Path("runs") / f"{title}{'-quick' if quick else ''}-{recipe.budget}-seed{recipe.seed}".replace("%", "pc")
    watch, out = watch or Watch(), Path(out)
    on = pick_device(device)
    _check_names(recipe)
    recipe, given = _given_teacher(recipe)
    data = _data(recipe, on)
    if given is not None and given.classes != data.classes:
        raise UserError(f"{recipe.weights}: this teacher knows other classes than {data.name}'s")
    budget, targets = _plan(recipe, data)
    names = stage_names(recipe)
    with _locked(out):
        manifest = _open(out, recipe, fresh)
        if manifest.setdefault("data", {"name": data.name, "checksum": data.checksum})["checksum"] != data.checksum:
            raise UserError(f"{out}: the data is not what this run began with; choose another --out, or --fresh")
        manifest |= {"device": device_name(on), "versions": versions(), "budget": budget}
        _write(out, manifest)
        records = [Record(**entry) for entry in manifest["stages"]]
        model: nn.Module | None = None
        teacher: tuple[nn.Module | None, int | None] = (None, None)
        if given is not None:
            teacher = (on_device(given.model, on), given.input_size[-1])
        for number, (stage, name) in enumerate(zip(recipe.stages, names, strict=True)):
            path = out / "stages" / f"{number + 1:02d}-{name.replace(' ', '-')}.pth"
            if number < len(records):
                model = on_device(_load(path, _network(stage, recipe)).model, on)
                watch.note(f"{name}: done before, taken from {path}")
            else:
                watch.begin(number + 1, len(names), name, _about(stage, recipe, targets[number]))
                bench = Workbench(
                    recipe,
                    data,
                    on,
                    watch,
                    path.with_suffix(".state"),
                    out / "answers",
                    *teacher,
                    targets[number],
                )
                started, before = time.monotonic(), records[-1] if records else None
                model = perform(model, stage, bench)
                record = _record(name, stage, recipe, model, bench, path, time.monotonic() - started)
                records.append(record)
                origin = _origin(recipe, manifest, records)
                checkpoint.save(pack(model, stage, recipe, data, origin), path)
                manifest["stages"] = [asdict(r) for r in records]
                _write(out, manifest)
                bench.state.unlink(missing_ok=True)
                watch.end(record, before, table(model, (3, side(stage, data), side(stage, data))))
            if stage.kind == "teach":
                teacher = (model, side(stage, data))
        if manifest["status"] != "done":
            networks = [_network(stage, recipe) for stage in recipe.stages]
            records = _test(out, records, networks, data, on, watch)
            manifest |= {"stages": [asdict(r) for r in records], "status": "done"}
            last = _load(out / records[-1].checkpoint, recipe.student)
            checkpoint.save(replace(last, origin=_origin(recipe, manifest, records)), out / MODEL)
            _write(out, manifest)
            shutil.rmtree(out / "answers", ignore_errors=True)
    return Result(out / MODEL, tuple(records))


def read_records(out: str | Path) -> tuple[dict[str, Any], list[Record]]:
    """The manifest of the run in `out`, and its stages so far."""
    path = Path(out) / MANIFEST
    if not path.is_file():
        raise UserError(f"{out}: not a run directory, there is no {MANIFEST}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return manifest, [Record(**entry) for entry in manifest["stages"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged: {error}") from error


def stage_names(recipe: Recipe) -> list[str]:
    """What the stages are called: a kind that comes more than once is numbered."""
    kinds = [stage.kind for stage in recipe.stages]
    seen: dict[str, int] = {}
    names = []
    for kind in kinds:
        seen[kind] = seen.get(kind, 0) + 1
        names.append(f"{kind} {seen[kind]}" if kinds.count(kind) > 1 else kind)
    return names


def _about(stage: Stage, recipe: Recipe, target: int | None) -> str:
    if isinstance(stage, Prune):
        return f"to {target:,} parameters, by {stage.importance}"
    what = {"teach": recipe.teacher.name, "distill": f"{recipe.teacher.name} into {recipe.student.name}"}
    return f"{what.get(stage.kind, recipe.student.name)}, {stage.epochs} epochs"


def _check_names(recipe: Recipe) -> None:
    for network in (recipe.teacher, recipe.student):
        if ":" in network.name:
            own_builder(network.name)
        else:
            with torch.device("meta"):
                build(replace(network, pretrained=False), 10)
    for stage in recipe.stages:
        if isinstance(stage, Prune):
            importance(stage.importance)


def _given_teacher(recipe: Recipe) -> tuple[Recipe, checkpoint.Checkpoint | None]:
    """The trained teacher that the recipe names, if it does, and the recipe without the stage that would train one."""
    if recipe.weights is None:
        return recipe, None
    given = _load(Path(recipe.weights), recipe.teacher)
    stages = tuple(stage for stage in recipe.stages if stage.kind != "teach")
    return replace(recipe, teacher=given.network, stages=stages), given


def _plan(recipe: Recipe, data: Data) -> tuple[int, list[int | None]]:
    """The budget in parameters, and what each prune stage aims at: spaced evenly in ratio, from student to budget."""
    example = torch.zeros(1, 3, data.size, data.size)
    student = build(replace(recipe.student, pretrained=False), len(data.classes))
    whole = count(student, (3, data.size, data.size)).params
    budget = parse_budget(str(recipe.budget)).of(whole)
    rounds = sum(isinstance(stage, Prune) for stage in recipe.stages)
    if budget >= whole:
        raise UserError(f"budget {recipe.budget}: the student {recipe.student.name} has only {whole:,} parameters")
    if rounds and budget < (lowest := least(student, example).params):
        raise UserError(f"budget {recipe.budget}: out of reach, the least for {recipe.student.name} is {lowest:,}")
    targets: list[int | None] = [None] * len(recipe.stages)
    places = [i for i, stage in enumerate(recipe.stages) if isinstance(stage, Prune)]
    for done, i in enumerate(places, start=1):
        targets[i] = budget if done == rounds else round(whole * (budget / whole) ** (done / rounds))
    return budget, targets


def _data(recipe: Recipe, device: torch.device) -> Data:
    data = open_data(recipe.data, size=recipe.size, limit=recipe.limit, share=recipe.share, seed=recipe.seed)
    return replace(data, train=data.train.to(device), val=data.val.to(device))


def _record(
    name: str, stage: Stage, recipe: Recipe, model: nn.Module, bench: Workbench, path: Path, seconds: float
) -> Record:
    size = side(stage, bench.data)
    cost = count(model, (3, size, size))
    earlier = bench.state.with_suffix(".jsonl")
    if earlier.is_file():  # time of training, interruptions left out
        seconds = max(seconds, json.loads(earlier.read_text().splitlines()[-1])["seconds"])
    return Record(
        name=name,
        kind=stage.kind,
        network=_network(stage, recipe).name,
        params=cost.params,
        macs=cost.macs,
        val=bench.validate(model, stage.size),
        seconds=round(seconds, 1),
        checkpoint=f"stages/{path.name}",
        epochs=0 if isinstance(stage, Prune) else stage.epochs,
    )


def _test(
    out: Path, records: list[Record], networks: list[Network], data: Data, device: torch.device, watch: Watch
) -> list[Record]:
    """Read the test split, once, and score every stage's model on it."""
    watch.begin(len(records) + 1, len(records) + 1, "test", "every stage's model on the test split, read once")
    pool = data.test().to(device)
    scored = []
    pairs = list(zip(records, networks, strict=True))
    for record, network in watch.track(pairs, len(records), "scoring"):
        kept = _load(out / record.checkpoint, network)
        batches = plain_batches(data, pool, batch=500)
        top1 = accuracy(kept.model.to(device), batches, size=kept.input_size[-1])
        scored.append(replace(record, test=top1))
    return scored


def _load(path: Path, network: Network) -> checkpoint.Checkpoint:
    """A weights file whose network the recipe vouches for, even if it is a person's own."""
    return checkpoint.load(path, own=own_builder(network.name) if ":" in network.name else None)


def _network(stage: Stage, recipe: Recipe) -> Network:
    return recipe.teacher if stage.kind == "teach" else recipe.student


def _origin(recipe: Recipe, manifest: dict[str, Any], records: list[Record]) -> dict[str, Any]:
    kept = ("name", "params", "macs", "val", "test", "seconds", "epochs")
    return {
        "recipe": recipes.plain(recipe),
        "device": manifest["device"],
        "versions": manifest["versions"],
        "data_checksum": manifest["data"]["checksum"],
        "stages": [{key: asdict(record)[key] for key in kept} for record in records],
    }


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, a run needs a directory")
    out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(out / ".lock", timeout=0):
            yield
    except filelock.Timeout as error:
        raise UserError(f"{out}: another run is at work in this directory") from error


def _open(out: Path, recipe: Recipe, fresh: bool) -> dict[str, Any]:
    path = out / MANIFEST
    begun = {"recipe": recipes.plain(recipe), "seed": recipe.seed, "status": "running", "stages": []}
    new: dict[str, Any] = json.loads(json.dumps(begun))
    if not path.is_file():
        if any(entry.name != ".lock" for entry in out.iterdir()):
            raise UserError(f"{out}: not empty, and not a run directory; choose another --out")
    elif fresh:
        for entry in ("stages", "answers"):
            shutil.rmtree(out / entry, ignore_errors=True)
        for name in (MANIFEST, MODEL):
            (out / name).unlink(missing_ok=True)
    else:
        manifest, _ = read_records(out)
        theirs, ours = manifest.get("recipe", {}), new["recipe"]
        if theirs != ours:
            key = next(k for k in ours if theirs.get(k) != ours[k])
            raise UserError(f"{out}: holds a run of another recipe ({key} differs); choose another --out, or --fresh")
        return manifest
    return new


def _write(out: Path, manifest: dict[str, Any]) -> None:
    write_text(out / MANIFEST, json.dumps(manifest, indent=2) + "\n")
