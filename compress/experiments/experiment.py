"""An experiment: every row of a grid over recipe keys, with every seed, is a run of its own; and what came of them.

Free of torch until there is something to train, so that a finished experiment, or a typo, is shown at once.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.experiments.grid import load, rows, title
from compress.experiments.results import write_picture, write_tables
from compress.pipeline.events import RunEvents
from compress.pipeline.run_dir import MANIFEST, StageResult, locked, read_results, normalize_recipe
from compress.recipe import load as recipes
from compress.recipe.schema import Recipe
from compress.runtime import distributed
from compress.runtime.errors import UserError, one_line
from compress.runtime.files import write_text

LEDGER = "experiment.json"


@dataclass(frozen=True)
class Cell:
    """One run of an experiment.

    Args:
        keys: what sets its row apart from the others, as text.
        recipe: what is to be done, before the teacher of another cell takes the place of its own.
        folder: its run directory.
        results: of its stages, once all of them are done.
        error: what it failed with, in one line.
    """

    keys: dict[str, str]
    recipe: Recipe
    folder: Path
    results: tuple[StageResult, ...] = ()
    error: str | None = None

    @property
    def seconds(self) -> float:
        """What its stages took, but for the teacher, who may be another cell's."""
        return sum(result.seconds for result in self.results if result.kind != "teach")


def plan(
    file: str | Path, *, out: str | Path | None = None, quick: bool = False
) -> tuple[Path, list[Cell]]:
    """The directory of the experiment in `file`, and its cells, seed by seed, as far as they are done.

    A cell is known again by its recipe: values and keys may be added to the file, and what they leave as it was is
    not done again.

    Raises:
        UserError: the file, or the recipe that a combination comes to, is wrong; or `out` holds something else.
    """
    experiment, path = load(file), Path(file)
    beside = path.parent / experiment.recipe
    name = (
        str(beside)
        if experiment.recipe not in recipes.shipped_recipes() and beside.is_file()
        else experiment.recipe
    )
    folder = Path(out or f"{experiment.out or f'runs/{path.stem}'}{'-quick' if quick else ''}")
    wanted: list[tuple[dict[str, str], Recipe]] = []
    for seed, (keys, overrides) in itertools.product(experiment.seeds, rows(experiment)):
        try:
            recipe = recipes.load_recipe(name, experiment.keys | overrides | {"seed": seed})
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        recipe = recipe.quick() if quick else recipe
        if any(recipe == other or (keys, seed) == (those, other.seed) for those, other in wanted):
            raise UserError(
                f"{path}: {title(keys)}: there is another row like it, and each is due once"
            )
        wanted.append((keys, recipe))
    return folder, list(_placed(folder, wanted))


def run(
    file: str | Path,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    quick: bool = False,
    events: RunEvents | None = None,
) -> list[Cell]:
    """Do what is missing of the experiment in `file`, every row with the first seed before any with the second.

    Where all that a teacher learns from is equal (its network and stage, data, size, limit, share, batch, seed), it
    is trained once, by the first cell, and the others are given its weights: what they come to is the same. A recipe
    with `minutes` trains its own, because the teacher's share of them depends on the rest.

    A cell that fails does not keep the others from being done, and is tried again by the next call. Each can be run
    once more from its ``run.json``. The table is in `out`, after every cell: see `compress.experiments.results`.

    Args:
        out, device, quick, events: as for `compress.pipeline.run.run`.

    Raises:
        UserError: the file or a combination cannot be carried out. Nothing has been trained or written by then.
    """
    distributed.require_single_process("an experiment")
    events = events or RunEvents()
    folder, cells = plan(file, out=out, quick=quick)
    if not all(cell.results for cell in cells):
        _check(cells, device)
        with locked(folder):
            folder, cells = plan(
                file, out=out, quick=quick
            )  # again: it may have been another's to write until now
            places = [
                place for place, cell in enumerate(cells) if not cell.results
            ]  # what is left to do
            for number, place in enumerate(places, start=1):
                events.log(f"\n{cells[place].folder.name} ({number} of {len(places)})")
                cells[place] = _do(cells[place], cells, device, events)
                write_tables(cells, folder)
    write_tables(cells, folder)
    write_picture(cells, folder)
    return cells


def _placed(folder: Path, wanted: Sequence[tuple[dict[str, str], Recipe]]) -> Iterator[Cell]:
    """A cell for each recipe: in the directory where it was begun, or in one that is free."""
    begun = _begun(folder)
    known = [(name, normalize_recipe(entry["recipe"]), entry["error"]) for name, entry in begun.items()]
    taken = set(begun)
    for keys, recipe in wanted:
        ours = json.loads(json.dumps(recipes.recipe_to_dict(recipe)))
        name, error = next(
            ((name, error) for name, theirs, error in known if theirs == ours), (None, None)
        )
        if name is None:
            said = {key: value for key, value in keys.items() if value != "-"} | {
                "seed": str(recipe.seed)
            }
            called = re.sub(
                r"[^\w.+=,]+", "-", ",".join(f"{key}={value}" for key, value in said.items())
            )[-100:]
            names = (
                called if number == 1 else f"{called}-{number}" for number in itertools.count(1)
            )
            name = next(name for name in names if name not in taken)
            taken.add(name)
        results = _finished(folder / name)
        yield Cell(keys, recipe, folder / name, results, None if results else error)


def _begun(folder: Path) -> dict[str, dict[str, Any]]:
    """The cells begun so far, by name: recipe, and error if it failed."""
    file = folder / LEDGER
    if not file.is_file():
        if folder.exists() and (
            not folder.is_dir() or any(not one.name.startswith(".") for one in folder.iterdir())
        ):
            raise UserError(
                f"{folder}: not empty, and not an experiment's directory; choose another --out"
            )
        return {}
    try:
        begun: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return {
            name: {"recipe": entry["recipe"], "error": entry["error"]}
            for name, entry in begun.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: damaged: {one_line(error)}; choose another --out") from error


def _finished(folder: Path) -> tuple[StageResult, ...]:
    try:
        manifest, results = read_results(folder)
    except UserError:  # not begun; or damaged, and then the run says so
        return ()
    return tuple(results) if manifest.get("status") == "done" else ()


def _check(cells: Sequence[Cell], device: str) -> None:
    """Find what is wrong with a combination before any is trained."""
    from compress.pipeline.plan import make_plan

    checked: list[dict[str, str]] = []
    for cell in cells:
        if not cell.results and cell.keys not in checked:
            checked.append(cell.keys)
            try:
                make_plan(cell.recipe, device)
            except UserError as error:
                raise UserError(f"{title(cell.keys)}: {error}") from error


def _do(cell: Cell, cells: Sequence[Cell], device: str, events: RunEvents) -> Cell:
    """Run `cell`, or go on with it; in the ledger it is before it begins, and its error after it failed."""
    from compress.pipeline.run import run

    begun, file = _begun(cell.folder.parent), cell.folder.parent / LEDGER

    def note(failed: str | None) -> None:
        begun[cell.folder.name] = {"recipe": recipes.recipe_to_dict(cell.recipe), "error": failed}
        write_text(file, json.dumps(begun, indent=1) + "\n")

    note(None)
    try:
        recipe = replace(
            cell.recipe, teacher=replace(cell.recipe.teacher, weights=_weights(cell, cells))
        )
        return replace(
            cell,
            results=run(recipe, out=cell.folder, device=device, events=events).results,
            error=None,
        )
    except Exception as error:  # whatever it is that ends one cell, the others are wanted
        failed = one_line(error)
        note(failed)
        events.log(f"failed: {failed}")
        return replace(cell, error=failed)


def _weights(cell: Cell, cells: Sequence[Cell]) -> str | None:
    """The weights file that takes the place of the teacher's training; None if there is none yet."""
    if (cell.folder / MANIFEST).is_file():  # a run goes on with what it began with, its own copy
        return recipes.load_recipe(str(cell.folder / MANIFEST)).teacher.weights
    teaching = _teaching(cell.recipe)
    for other in cells:
        if (
            teaching is not None
            and _teaching(other.recipe) == teaching
            and (other.folder / MANIFEST).is_file()
        ):
            for result in read_results(other.folder)[1]:
                file = (other.folder / result.checkpoint).resolve()
                if result.kind == "teach" and file.is_file():
                    return str(file)
    return cell.recipe.teacher.weights


def _teaching(recipe: Recipe) -> Recipe | None:
    """The recipe without all that comes after its teach stage; None if no teacher can be shared."""
    stages = tuple(stage for stage in recipe.stages if stage.kind == "teach")
    if not stages or recipe.teacher.weights or recipe.student.weights or recipe.minutes:
        return None
    return replace(
        recipe,
        title="",
        budget=None,
        macs=None,
        file_size=None,
        student=recipe.teacher,
        stages=stages,
    )
