"""Commands that train: `run`, `sweep` and `experiment`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress.cli.command import WORDS, Command
from compress.cli.options import (
    budget_options,
    device_option,
    quick_option,
    recipe_options,
    report_options,
)
from compress.cli.output import echo_line
from compress.recipe.budget import parse_descending
from compress.recipe.data_names import check_data_name
from compress.runtime import distributed
from compress.runtime.errors import UserError
from compress.runtime.files import require_file
from compress.runtime.launch import launch

if TYPE_CHECKING:
    from compress.recipe.schema import Recipe

# For a quick --help, a function imports pydantic itself; and torch, which takes seconds, after its
# checks.


def _load_checked_recipe(name: str, overrides: dict[str, Any]) -> Recipe:
    """Load a recipe, and check everything about it that does not need torch."""
    from compress.recipe.load import load_recipe

    if overrides.get("data"):
        # Refused here, a wrong flag is not blamed on the recipe's file.
        check_data_name(overrides["data"])
    recipe = load_recipe(name, overrides)
    for file in filter(None, (recipe.teacher.weights, recipe.student.weights)):
        require_file(file)
    check_data_name(recipe.data)
    return recipe


def check_tools(names: Iterable[str]) -> None:
    """Check that the tools that are to log runs are installed; none of them is imported.

    Raises:
        UserError: there is no such tool, or it is not installed.
    """
    if names:
        from compress.reporting.loggers.log_tool import get_tool

        for name in names:
            get_tool(name)


@click.command(cls=Command, resumes=True)
@click.argument("recipe", default="default")
@budget_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Run directory; in runs, named after recipe, budget and seed, if left out.",
)
@recipe_options
@click.option(
    "--processes",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes on this machine that share every batch: one for each GPU.",
)
@click.option(
    "--from",
    "redo_from",
    metavar="STAGE",
    help="Redo a run from a stage on, as 'finetune 1'; its keys from there on may differ.",
)
@report_options
@distributed.process_group()
def run(
    recipe: str,
    out: Path | None,
    device: str,
    quick: bool,
    fresh: bool,
    processes: int,
    redo_from: str | None,
    verbose: bool,
    tools: tuple[str, ...],
    **overrides: Any,
) -> int:
    """Train, distill and prune to the budget.

    Trains a teacher, distills a student from it, and prunes the student in rounds.

    RECIPE is a name that `compress recipes` lists, or a TOML file. Run the same command again to
    resume after an interruption.
    """
    loaded = _load_checked_recipe(recipe, overrides)
    check_tools(tools)
    if processes > 1:
        return _run_in_processes(processes)

    from compress.cli.terminal import Terminal, tracking
    from compress.pipeline.quality import compare_with_uncut
    from compress.pipeline.run import run as run_pipeline
    from compress.pipeline.run_dir import default_run_dir
    from compress.reporting.tables import stages_table

    with Terminal(verbose=verbose) as terminal, tracking(terminal, tools) as events:
        result = run_pipeline(
            loaded,
            out=out or default_run_dir(Path(recipe).stem, loaded, quick),
            device=device,
            quick=quick,
            fresh=fresh,
            redo_from=redo_from,
            events=events,
        )
    if distributed.is_main():
        terminal.show(stages_table(result.results, result.seconds))
        if compared := compare_with_uncut(result.results):
            terminal.show(compared)
        for warning in result.warnings:
            terminal.show(f"warning: {warning}")
        terminal.show(str(result.model))
    return 0


def _run_in_processes(processes: int) -> int:
    """Start this command again in several processes; the line that matters comes last, once."""
    if distributed.is_launched():
        raise UserError("--processes: these processes are started already; leave it out")
    words, rest = ["-m", "compress", "run"], iter(click.get_current_context().meta[WORDS])
    for word in rest:
        if word == "--processes":
            next(rest)
        elif not word.startswith("--processes="):
            words.append(word)
    code, line = launch(words, processes, lambda text: echo_line(text, err=True))
    if line:
        echo_line(line, err=True)
    return code


@click.command(cls=Command, resumes=True)
@click.argument("recipe", default="default")
@click.option(
    "--budgets", required=True, help="Numbers of parameters with commas: 1M,300k,100k,30k,10k."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="runs/sweep",
    show_default=True,
    help="Directory that holds the run directory of each budget.",
)
@recipe_options
@report_options
def sweep(
    recipe: str,
    budgets: str,
    out: Path,
    device: str,
    quick: bool,
    fresh: bool,
    verbose: bool,
    tools: tuple[str, ...],
    **overrides: Any,
) -> None:
    """Run one recipe for many budgets.

    Each budget continues from the network of the one above it, with the best network so far as
    teacher. Writes a table (sweep.md) and a picture (sweep.png) to
    --out. With --minutes, each budget gets that much time.
    """
    ordered = parse_descending(budgets.split(","))
    loaded = _load_checked_recipe(recipe, overrides | {"budget": ordered[-1]})
    check_tools(tools)

    from compress.cli.terminal import Terminal, tracking
    from compress.experiments.sweep import PLOT, sweep_table
    from compress.experiments.sweep import sweep as run_sweep
    from compress.reporting.plots import scatter_text
    from compress.reporting.published import PUBLISHED

    with Terminal(verbose=verbose) as terminal, tracking(terminal, tools) as events:
        results = run_sweep(
            loaded, ordered, out=out, device=device, quick=quick, fresh=fresh, events=events
        )
    terminal.show(sweep_table(results))
    finals = [(result.final, result.final.test or 0.0, result.budget) for result in results]
    by_params = [(final.params, test, budget) for final, test, budget in finals]
    by_macs = [(final.macs, test, budget) for final, test, budget in finals]
    terminal.show(scatter_text(by_params, "parameters", PUBLISHED.get(loaded.data, ())))
    terminal.show(scatter_text(by_macs, "multiply-adds"))
    terminal.show(str(out / PLOT))


@click.command(cls=Command, resumes=True)
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Directory of the runs; the file's, or one in runs named after it, if left out.",
)
@device_option
@quick_option
@report_options
def experiment(
    file: Path,
    out: Path | None,
    device: str,
    quick: bool,
    verbose: bool,
    tools: tuple[str, ...],
) -> int:
    """Run recipes over a grid of keys and seeds.

    FILE names recipe keys with their values; every combination is run with every seed. Runs that
    are finished are not repeated. Writes tables (table.md, table.csv) and a picture (table.png)
    beside the runs. The exit code is 1 if a run failed.
    """
    check_tools(tools)

    from compress.cli.terminal import Terminal, tracking
    from compress.experiments.experiment import run_experiment
    from compress.experiments.results import PLOT, experiment_table

    with Terminal(verbose=verbose) as terminal, tracking(terminal, tools) as events:
        trials = run_experiment(file, out=out, device=device, quick=quick, events=events)
    terminal.show(experiment_table(trials))
    terminal.show(str(trials[0].folder.parent / PLOT))
    failed = [trial for trial in trials if trial.error]
    for trial in failed:
        echo_line(f"{trial.folder}: {trial.error}", err=True)
    return 1 if failed else 0
