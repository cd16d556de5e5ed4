"""Sweeps: many budgets from one student, each pruned from the network of the budget above."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.pipeline.events import RunEvents
from compress.pipeline.plan import make_plan
from compress.pipeline.run import RunResult, run
from compress.pipeline.run_dir import MANIFEST, MODEL, StageResult, check_run_dir, read_results
from compress.recipe.budget import BUDGET_KEYS, parse_descending
from compress.recipe.load import override_recipe
from compress.recipe.schema import Recipe
from compress.recipe.stages import Prune
from compress.reporting.plots import plot_sweep, save_figure
from compress.reporting.published import PUBLISHED
from compress.reporting.tables import Table
from compress.reporting.units import format_accuracy, format_bytes, format_macs, name_score
from compress.runtime import distributed
from compress.runtime.errors import UserError
from compress.runtime.files import remove_parts, write_text

TABLE, PLOT = "sweep.md", "sweep.png"


@dataclass(frozen=True)
class SweepResult:
    """The finished run of one budget."""

    budget: str
    run: RunResult

    @property
    def final(self) -> StageResult:
        """The result of the last stage."""
        return self.run.results[-1]

    @property
    def trained(self) -> StageResult:
        """The result of the last stage with a network in float32, the one in `model.pth`."""
        return next(each for each in reversed(self.run.results) if each.kind != "quantize")

    @property
    def file_bytes(self) -> int:
        """Size of the final network's file: `model.pth`, or the int8 file."""
        quantized = self.final.kind == "quantize"
        return self.final.bytes if quantized else self.run.model.stat().st_size


def sweep(
    recipe: Recipe,
    budgets: Sequence[str],
    *,
    out: str | Path,
    device: str = "auto",
    quick: bool = False,
    fresh: bool = False,
    events: RunEvents | None = None,
) -> list[SweepResult]:
    """Run `recipe` for each of `budgets`, the largest first, each in its own directory in `out`.

    The first run trains the teacher and distills the student; each of the others prunes the network
    of the one before it. Its teacher is the network with the best validation accuracy so far. All
    runs share one logits cache. A sweep that was stopped resumes where it was. After each budget,
    the table and the picture of those so far are written to ``sweep.md`` and ``sweep.png`` in
    `out`.

    Args:
        recipe: its other budgets, such as `macs`, hold for every run.
        budgets: numbers of parameters, which replace the recipe's.
        out, device, quick, fresh, events: as for `compress.pipeline.run.run`, for every run.

    Raises:
        UserError: a budget is not a number, comes twice or is out of reach, or `out` holds
            something else; nothing has been trained by then. Or, later: a run failed.

    Example:
        >>> results = sweep(load_recipe("default"), ["300k", "100k"], out="runs/sweep")
        >>> results[-1].final.test
        0.9489
    """
    distributed.require_single_process("a sweep")
    out, events = Path(out), events or RunEvents()
    ordered = parse_descending(budgets)
    recipe = recipe.quick() if quick else recipe
    if any(isinstance(stage, Prune) and stage.mode == "weights" for stage in recipe.stages):
        raise UserError(
            "stages: a network pruned in mode 'weights' cannot be pruned further; use 'channels'"
        )
    # The smallest budget is the one that may be out of reach.
    make_plan(_derive_recipe(recipe, ordered[-1], []), device)
    _check_run_dirs(out, ordered, fresh)
    results: list[SweepResult] = []
    # Hidden, so that it is not a directory of the user's.
    logits_dir = out / ".logits_cache"
    for number, budget in enumerate(ordered, start=1):
        events.log(f"\nbudget {budget} ({number} of {len(ordered)})")
        finished = run(
            _derive_recipe(recipe, budget, results),
            out=out / budget,
            device=device,
            fresh=fresh,
            logits_dir=logits_dir,
            events=events,
        )
        results.append(SweepResult(budget, finished))
        write_text(out / TABLE, sweep_table(results).as_markdown())
        figure = plot_sweep([each.final for each in results], PUBLISHED.get(recipe.data, ()))
        save_figure(figure, out / PLOT)
    shutil.rmtree(logits_dir, ignore_errors=True)
    remove_parts(out)
    return results


def sweep_table(results: Sequence[SweepResult]) -> Table:
    """Return the final network of each budget."""
    metric = results[-1].final.metric
    scores = [f"{name_score(split, metric)} %" for split in ("val", "test")]
    headings = ["budget", "parameters", "multiply-adds", "file", *scores]
    rows = [
        [
            result.budget,
            f"{result.final.params:,}",
            format_macs(result.final.macs),
            format_bytes(result.file_bytes),
            format_accuracy(result.final.val),
            format_accuracy(result.final.test),
        ]
        for result in results
    ]
    return Table(headings, rows)


def _derive_recipe(recipe: Recipe, budget: str, results: Sequence[SweepResult]) -> Recipe:
    """Return the recipe of a budget: it continues from the last of the `results` above it."""
    # A budget among the overrides replaces all of the recipe's.
    budgets = {key: getattr(recipe, key) for key in BUDGET_KEYS} | {"budget": budget}
    return override_recipe(recipe, budgets | _continue_from(results))


def _continue_from(results: Sequence[SweepResult]) -> dict[str, Any]:
    """Return the recipe keys by which a budget continues from the budgets above it.

    They name the trained student, and the best network so far as its teacher.
    """
    if not results:
        return {}
    keys: dict[str, Any] = {"student.weights": str(results[-1].run.model)}
    first = results[0].run
    teachers = [
        (stage, first.model.parent / stage.checkpoint)
        for stage in first.results
        if stage.kind == "teach"
    ]
    if teachers:
        students = [(result.trained, result.run.model) for result in results]
        best, file = max(teachers + students, key=lambda pair: pair[0].val)
        keys["teacher"] = {"name": best.network, "weights": str(file)}
    return keys


def _check_run_dirs(out: Path, budgets: Sequence[str], fresh: bool) -> None:
    """Check that the directories of all runs are free, or hold runs of this sweep.

    Raises:
        UserError: one is taken; or, if not `fresh`, its run continues from another budget.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, a sweep needs a directory; choose another --out")
    for budget in budgets:
        check_run_dir(out / budget)
    for above, budget in itertools.pairwise(budgets):
        if fresh or not (out / budget / MANIFEST).is_file():
            continue
        manifest, _ = read_results(out / budget)
        start = manifest.get("recipe", {}).get("student", {}).get("weights")
        if start is None or Path(start).resolve() != (out / above / MODEL).resolve():
            raise UserError(
                f"{out / budget}: continues from {start or 'no other budget'}, not from {above};"
                " choose another --out, or --fresh"
            )
