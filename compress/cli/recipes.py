"""Commands that read: `recipes` and `stages`. Neither imports torch."""

from __future__ import annotations

import json
from pathlib import Path

import click

from compress.cli.command import Command
from compress.runtime.errors import UserError, did_you_mean


@click.command(cls=Command)
@click.option("--show", metavar="NAME", help="Print the TOML file of this recipe.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of recipes, for editors.")
def recipes(show: str | None, schema: bool) -> None:
    """List the shipped recipes.

    To write one of your own, start from a copy: compress recipes --show default > mine.toml
    """
    from compress.recipe.load import load_recipe, shipped_recipes

    shipped = shipped_recipes()
    if show is not None and schema:
        raise UserError("--show and --schema: pass only one of them")
    if schema:
        from pydantic import TypeAdapter

        from compress.recipe.schema import Recipe

        click.echo(json.dumps(TypeAdapter(Recipe).json_schema(), indent=2))
    elif show is None:
        for name in shipped:
            click.echo(f"{name:28} {load_recipe(name).title}")
    elif show in shipped:
        click.echo(shipped[show].read_text(encoding="utf-8"), nl=False)
    else:
        raise UserError(
            f"no shipped recipe {show!r}{did_you_mean(show, shipped)}; known: {', '.join(shipped)}"
        )


@click.command(cls=Command)
@click.argument("directory", type=click.Path(path_type=Path))
def stages(directory: Path) -> None:
    """Show the stages of the run in DIRECTORY."""
    from compress.cli.terminal import Terminal
    from compress.pipeline.run_dir import read_results
    from compress.reporting.tables import stages_table

    manifest, results = read_results(directory)
    Terminal().show(stages_table(results, manifest.get("seconds")))
