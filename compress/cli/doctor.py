"""The command `doctor`: what is installed, what would be slow here, and caches."""

from __future__ import annotations

import click

from compress.cli.command import Command
from compress.cli.output import echo_line


@click.command(cls=Command)
@click.option(
    "--clear-cache",
    is_flag=True,
    help="Remove what is made again when it is needed; data sets stay.",
)
def doctor(clear_cache: bool) -> None:
    """Check what is installed and slow here.

    Shows versions, device, data sets and caches; and, for what would be slow or fail on this
    machine, what to do about it.
    """
    if clear_cache:
        _clear()
        return

    from compress.cli.terminal import Terminal
    from compress.reporting.doctor import (
        caches_table,
        data_table,
        extras_table,
        find_problems,
        machine_table,
        versions_table,
    )

    terminal = Terminal()
    for table in (versions_table(), extras_table(), machine_table(), data_table(), caches_table()):
        if table:
            terminal.show(table)
    for problem in find_problems() or ["nothing is missing here"]:
        echo_line(problem)


def _clear() -> None:
    from compress.data.cache import cache_root, clear_cache
    from compress.runtime.files import format_size

    removed = clear_cache()
    for path, size in removed:
        echo_line(f"removed {path} ({format_size(size)})")
    if not removed:
        echo_line(f"nothing to remove in {cache_root()}")
