"""What commands print: names from files cannot control the terminal. Does not import torch."""

from __future__ import annotations

import io
import sys

import click

from compress.runtime.text import safe_block, safe_line


def echo_line(text: object, err: bool = False) -> None:
    """Print one line, to standard error with `err`."""
    click.echo(safe_line(str(text)), err=err)


def echo_block(text: str) -> None:
    """Print text of several lines."""
    click.echo(safe_block(text))


def echo_csv(table: str) -> None:
    """Print a CSV table, with the line ends of this system; as it is, if a program reads it."""
    text = table.replace("\r\n", "\n")
    click.echo(safe_block(text) if sys.stdout.isatty() else text, nl=False)


def escape_unprintable() -> None:
    """Let the standard streams escape characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
