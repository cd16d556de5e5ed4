"""Experiments: every row of a grid over recipe keys, with every seed, is a run.

torch is only imported when something is to be trained: a finished experiment, and a typo, are shown
at once.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.experiments.grid import describe_row, expand_rows, load_experiment
from compress.experiments.ledger import Entry, read_ledger, write_entry, write_rows
from compress.experiments.results import read_finished, write_plot, write_tables
from compress.experiments.trial import Trial
from compress.pipeline.events import RunEvents
from compress.pipeline.run_dir import MANIFEST, locked, read_results
from compress.pipeline.same_run import normalize_recipe
from compress.recipe.load import load_recipe, recipe_to_dict, shipped_recipes
from compress.recipe.schema import Recipe
from compress.runtime import distributed
from compress.runtime.errors import UserError, one_line
from compress.runtime.files import is_file, remove_parts


def plan_experiment(
    file: str | Path, *, out: str | Path | None = None, quick: bool = False
) -> list[Trial]:
    """Return the trials of an experiment, seed by seed, with the results that exist.

    A trial is recognized by its recipe: values and keys may be added to the file, and runs that
    they do not change are not repeated.

    Args:
        file, out, quick: as for `run_experiment`.

    Raises:
        UserError: the file, or the recipe of a row, is wrong; or `out` holds something else.
    """
    path, experiment = Path(file), load_experiment(file)
    default = experiment.out or f"runs/{path.stem}"
    folder = Path(out or f"{default}{'-quick' if quick else ''}")
    name = _find_recipe(experiment.recipe, path.parent)
    planned: list[tuple[dict[str, str], Recipe]] = []
    for seed, (label, keys) in itertools.product(experiment.seeds, expand_rows(experiment)):
        try:
            recipe = load_recipe(name, experiment.keys | keys | {"seed": seed})
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        recipe = recipe.quick() if quick else recipe
        for other_label, other in planned:
            if recipe == other or (label, seed) == (other_label, other.seed):
                raise UserError(
                    f"{path}: {describe_row(label)}: another row is the same; change or drop one"
                )
        planned.append((label, recipe))
    return list(_assign_folders(folder, planned))


def run_experiment(
    file: str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    quick: bool = False,
    events: RunEvents | None = None,
) -> list[Trial]:
    """Run the unfinished trials of an experiment, seed by seed.

    All rows run with the first seed, then all with the second, and so on.

    A teacher is trained once and shared by all trials that would train the same one: with an equal
    network and stage, data, image size, number of images, batch size and seed. Their results are
    what they would be without sharing. A recipe with `minutes` trains its own teacher, because the
    teacher's part of the time depends on the other stages.

    A trial that fails does not stop the others, and is tried again by the next call. Each trial can
    be repeated from its ``run.json``. Tables are written after every trial: see
    `compress.experiments.results`.

    Args:
        file: the experiment file.
        out: directory of the runs; the file's, or ``runs/`` and the file's name, if left out.
        device: ``auto``, ``cpu`` or ``cuda``.
        quick: run small versions, to try them out.
        events: receive progress.

    Returns:
        The trials, seed by seed.

    Raises:
        UserError: the file or one of its rows cannot be carried out; nothing has been trained or
            written by then.
    """
    distributed.require_single_process("an experiment")
    events = events or RunEvents()
    trials = plan_experiment(file, out=out, quick=quick)
    folder = trials[0].folder.parent
    _check_rows(trials, device)
    with locked(folder):
        # Again: another process may have written until now.
        trials = plan_experiment(file, out=out, quick=quick)
        write_rows(folder, {trial.folder.name: trial.label for trial in trials})
        unfinished = [index for index, trial in enumerate(trials) if not trial.results]
        for number, index in enumerate(unfinished, start=1):
            events.log(f"\n{trials[index].folder.name} ({number} of {len(unfinished)})")
            trials[index] = _run_trial(trials[index], trials, device, events)
            write_tables(trials, folder)
        write_tables(trials, folder)
        write_plot(trials, folder)
        remove_parts(folder)
    return trials


def _find_recipe(name: str, folder: Path) -> str:
    """Return the name under which `load_recipe` finds an experiment's recipe."""
    beside = folder / name
    own = name not in shipped_recipes() and is_file(beside)
    return str(beside) if own else name


def _assign_folders(
    folder: Path, planned: Iterable[tuple[dict[str, str], Recipe]]
) -> Iterator[Trial]:
    """Yield a trial for each recipe: in the directory where it was started, or in a new one."""
    ledger = read_ledger(folder).trials
    started = {name: normalize_recipe(entry.recipe) for name, entry in ledger.items()}
    taken = set(ledger)
    for label, recipe in planned:
        table = _to_json(recipe)
        name = next((name for name, other in started.items() if other == table), None)
        error = ledger[name].error if name else None
        name = name or _choose_name(label, recipe.seed, taken)
        taken.add(name)
        results, _ = read_finished(folder / name)
        yield Trial(label, recipe, folder / name, results, None if results else error)


def _to_json(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain data with JSON's types: lists for tuples."""
    table: dict[str, Any] = json.loads(json.dumps(recipe_to_dict(recipe)))
    return table


def _choose_name(label: dict[str, str], seed: int, taken: set[str]) -> str:
    """Return a directory's name that is not taken, as ``distill.alpha=0.9,seed=0``."""
    keys = {key: value for key, value in label.items() if value != "-"} | {"seed": str(seed)}
    text = ",".join(f"{key}={value}" for key, value in keys.items())
    # File systems limit the bytes of a name.
    end = re.sub(r"[^\w.+=,]+", "-", text).encode()[-100:]
    base = end.decode(errors="ignore")
    names = (base if number == 1 else f"{base}-{number}" for number in itertools.count(1))
    return next(name for name in names if name not in taken)


def _check_rows(trials: list[Trial], device: str) -> None:
    """Plan one trial of each unfinished row, to find what is wrong before any is trained.

    Each data set is read once, to find images that cannot be decoded.
    """
    if all(trial.results for trial in trials):
        return
    from compress.pipeline.plan import make_plan

    checked: list[dict[str, str]] = []
    read: set[tuple[object, ...]] = set()
    for trial in trials:
        if trial.results or trial.label in checked:
            continue
        checked.append(trial.label)
        try:
            recipe = trial.recipe
            data = make_plan(recipe, device).data
            chosen = (data.name, data.image_size, recipe.max_images, recipe.data_fraction)
            if chosen not in read:
                read.add(chosen)
                data.load()
        except UserError as error:
            raise UserError(f"{describe_row(trial.label)}: {error}") from error


def _run_trial(trial: Trial, trials: list[Trial], device: str, events: RunEvents) -> Trial:
    """Run or resume `trial`. The ledger has it before it starts, and its error after it failed."""
    from compress.pipeline.run import run

    folder, entry = trial.folder.parent, Entry(recipe_to_dict(trial.recipe))
    write_entry(folder, trial.folder.name, entry)
    try:
        teacher = replace(trial.recipe.teacher, weights=_teacher_weights(trial, trials))
        recipe = replace(trial.recipe, teacher=teacher)
        result = run(recipe, out=trial.folder, device=device, events=events)
    # Whatever ends one trial, the others are wanted.
    except Exception as error:
        message = one_line(error)
        write_entry(folder, trial.folder.name, replace(entry, error=message))
        events.log(f"failed: {message}")
        return replace(trial, error=message)
    return replace(trial, results=result.results, error=None)


def _teacher_weights(trial: Trial, trials: list[Trial]) -> str | None:
    """Return the weights file of a teacher that another trial has trained, or the recipe's own."""
    manifest = trial.folder / MANIFEST
    if manifest.is_file():
        # A resumed run keeps its own copy of the teacher.
        return load_recipe(str(manifest)).teacher.weights
    wanted = _teacher_recipe(trial.recipe)
    if wanted is None:
        return trial.recipe.teacher.weights
    for other in trials:
        if _teacher_recipe(other.recipe) != wanted or not (other.folder / MANIFEST).is_file():
            continue
        for result in read_results(other.folder)[1]:
            file = (other.folder / result.checkpoint).resolve()
            if result.kind == "teach" and file.is_file():
                return str(file)
    return None


def _teacher_recipe(recipe: Recipe) -> Recipe | None:
    """Return the part of a recipe that determines its teacher; None if it cannot be shared."""
    teach = tuple(stage for stage in recipe.stages if stage.kind == "teach")
    if not teach or recipe.teacher.weights or recipe.student.weights or recipe.minutes:
        return None
    return replace(
        recipe,
        title="",
        budget=None,
        macs=None,
        file_size=None,
        latency=None,
        speedup=None,
        student=recipe.teacher,
        stages=teach,
    )
