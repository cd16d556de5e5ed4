"""Runs: a recipe from end to end.

Each stage takes a model, gives back a model, and leaves a result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from compress.data.labels import ClassNames
from compress.data.near_duplicates import note_near_duplicates
from compress.data.source import Normalization, fit_channels
from compress.models import checkpoint
from compress.models.build import builder_of
from compress.models.checkpoint import Checkpoint
from compress.models.reuse import quiet_builders
from compress.pipeline.events import RunEvents, to_events
from compress.pipeline.in_hand import Given, to_recipe
from compress.pipeline.least_time import measure_stage_seconds
from compress.pipeline.plan import Plan, make_plan
from compress.pipeline.quality import list_warnings
from compress.pipeline.run_dir import MANIFEST, StageResult, default_run_dir, open_run
from compress.pipeline.same_run import Stages, find_stage
from compress.pipeline.unfinished_run import UnfinishedRun
from compress.recipe.in_memory import holding
from compress.recipe.load import recipe_to_dict
from compress.recipe.schema import Recipe
from compress.runtime import distributed
from compress.runtime.arguments import read_normalization
from compress.runtime.errors import UserError
from compress.runtime.memory import kept_memory


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Args:
        model: the final weights file.
        results: the results of all stages.
        warnings: a line on each stage that learned nothing, or did not recover from a cut.
        builder: builds the final network before its cuts, if that was a function or a module.
        seconds: wall time of the run, in all calls together.
    """

    model: Path
    results: tuple[StageResult, ...]
    warnings: tuple[str, ...] = ()
    builder: Callable[..., nn.Module] | None = field(default=None, repr=False)
    seconds: float = 0.0

    def load(self) -> Checkpoint:
        """Load the final weights file."""
        return checkpoint.load(self.model, self.builder)

    @property
    def module(self) -> nn.Module:
        """The final network, a plain module on the CPU, in evaluation mode."""
        return self.load().model


@distributed.process_group()
def run(
    recipe: str | Path | Recipe | Mapping[str, Any] = "default",
    *,
    out: str | Path | None = None,
    device: str = "auto",
    quick: bool = False,
    fresh: bool = False,
    redo_from: str | None = None,
    logits_dir: Path | None = None,
    events: RunEvents | None = None,
    callbacks: Any = None,
    classes: ClassNames | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    trained: bool | None = None,
    **overrides: Any,
) -> RunResult:
    """Run the stages of a recipe in a run directory, or resume there.

    Objects may take the place of names: ``data`` may be a torch Dataset, arrays (images, labels), a
    Hugging Face dataset, or its splits (train, val, test); ``teacher`` and ``student`` may be
    modules; ``method`` a function of the logits, (student, teacher) or (student, teacher, targets),
    or a `Method`; ``importance`` one of torch-pruning's, a function of its groups, or an
    `Importance`. Modules and data are copied, not changed. The run directory keeps fingerprints of
    these objects: the same call resumes, one with other objects is refused.

    Args:
        recipe: a shipped recipe's name, a TOML file, a loaded recipe, or a recipe as a dictionary.
        out: the run directory; ``runs/`` and the recipe's name, budget and seed if left out.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        quick: run a small version, to try it out.
        fresh: discard what an earlier run left in `out`.
        redo_from: name of a stage, as ``finetune 1``, from which on the run in `out` is done again;
            the keys of its training stages from there on may differ.
        logits_dir: folder of a logits cache that several runs share, and that the caller removes;
            the run's own, removed at its end, if left out.
        events: receive progress.
        callbacks: objects with some of the methods of `compress.pipeline.events.RunEvents`, or
            mappings from their names to functions, as ``{"on_epoch_end": f}``; one, or a list.
        classes: names of the classes of data in memory, in order, or mapped to their numbers.
        mean, std: normalization by channel of the images of modules in memory, for pixels scaled to
            0..1. If left out, trained modules are tried with the usual ones.
        trained: the modules in memory are trained for the data (True), or are to be trained from
            their present weights (False). If left out, their accuracy on validation images decides,
            and a line says so.
        overrides: recipe keys, as ``budget="50k"`` or ``teacher="resnet34"``; see
            `compress.recipe.overrides.apply_overrides`.

    Raises:
        UserError: the recipe cannot be carried out, or `out` holds something else; nothing has been
            trained or overwritten by then. Later, it means that a stage failed.

    Example:
        >>> result = compress.run("default", budget="100k", out="runs/mine")
        >>> result.results[-1].test
        0.9492
    """
    if not isinstance(recipe, str | Path | Recipe | Mapping):
        raise UserError(
            f"recipe: {type(recipe).__name__} is neither a name, a TOML file, a Recipe, nor a dict"
        )
    started = time.monotonic()
    name = "recipe" if isinstance(recipe, Recipe | Mapping) else Path(recipe).stem
    receiver = to_events(events, callbacks)
    given = Given(classes, _to_normalization(mean, std), trained)
    with holding(), quiet_builders(), kept_memory():
        loaded, notes = to_recipe(recipe, overrides, given)
        loaded = loaded.quick() if quick else loaded
        path = Path(out) if out is not None else default_run_dir(name, loaded, quick)
        receiver = receiver if receiver is not None and distributed.is_main() else RunEvents()
        plan = make_plan(loaded, device, receiver.log)
        plan = replace(plan, notes=(*notes, *plan.notes))
        if fresh and redo_from is not None:
            raise UserError("pass --fresh or --from, not both")
        names = tuple(step.name for step in plan.steps)
        redo = find_stage(redo_from, names)
        stages = Stages(names, _find_positions(loaded, plan), redo)
        return _run(loaded, plan, path, fresh, stages, logits_dir, receiver, started)


def _find_positions(recipe: Recipe, plan: Plan) -> tuple[int | None, ...]:
    """Return the position in `recipe` of each step's stage."""
    if plan.recipe.small_data != recipe.small_data:
        # The plan's stages are those of a recipe for small data.
        return ()
    return tuple(step.position for step in plan.steps)


def _to_normalization(
    mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalization | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UserError("mean and std: pass both, of one value each, or of three")
    read = read_normalization(mean, std)
    return fit_channels(read[0], 3), fit_channels(read[1], 3)


def _run(
    recipe: Recipe,
    plan: Plan,
    out: Path,
    fresh: bool,
    stages: Stages,
    logits_dir: Path | None,
    events: RunEvents,
    started: float,
) -> RunResult:
    """Run what is left of a plan."""
    # An image that cannot be read ends the run now, and not after an epoch.
    plan.data.load()
    plan = replace(plan, notes=(*plan.notes, *note_near_duplicates(plan.data)))
    begun = {"recipe": recipe_to_dict(recipe), "seed": recipe.seed, "data": _identify_data(plan)}
    if recipe.minutes is not None and (fresh or not (out / MANIFEST).is_file()):
        expected = measure_stage_seconds(plan)
        begun |= {"stage_seconds": expected.whole, "least_seconds": expected.least}
    with open_run(out, begun, fresh, stages, started) as run_dir:
        if not distributed.broadcast(run_dir.is_done()):
            UnfinishedRun(plan, run_dir, logits_dir or run_dir.logits_dir, events).resume()
        warnings = list_warnings(run_dir.results, plan.data.val_labels, plan.task)
        builder = builder_of(plan.steps[-1].network)
        results = tuple(run_dir.results)
        seconds = float(run_dir.manifest.get("seconds", 0.0))
        return RunResult(run_dir.model, results, warnings, builder, seconds)


def _identify_data(plan: Plan) -> dict[str, str]:
    """Return the name and checksum of the training images, the same in all processes."""
    data = {"name": plan.data.name, "checksum": plan.data.checksum}
    if data != distributed.broadcast(data):
        raise UserError(
            f"{plan.data.name}: process {distributed.rank()} finds other images"
            " than the main process"
        )
    return data
