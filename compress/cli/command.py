"""The class of all commands: errors in one line, exit codes, Ctrl-C.

Does not import torch.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from compress.cli.output import echo_line, escape_unprintable
from compress.runtime.distributed import RESUME_HINT
from compress.runtime.errors import UserError, is_out_of_memory, one_line
from compress.runtime.text import safe_line

# The key of a command's own words in the context's `meta`.
WORDS = "compress.words"
CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}


class CommandError(click.ClickException):
    """An error that ends a command: one line on standard error, and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        echo_line(f"error: {self.format_message()}", err=True)


class Command(click.Command):
    """A command that reports errors of the user, the disk and the memory in one line.

    These end it with exit code 2, Ctrl-C with 130, and SIGTERM, which schedulers send, with 143.
    Errors of the program keep their traceback.
    An int that the function returns is the exit code.

    Args:
        resumes: tell the user, after Ctrl-C or SIGTERM, that the same command resumes.
    """

    def __init__(self, *args: Any, resumes: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": CONTEXT_SETTINGS} | kwargs)
        self.resumes = resumes

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any(word == "" or re.fullmatch(r"--[\w-]+=", word) for word in args):
            # As a path, it would be the current folder.
            raise CommandError("an argument is empty; leave it out, or quote what it stands for")
        ctx.meta[WORDS] = tuple(args)
        with _usage_in_one_line(ctx):
            rest = super().parse_args(ctx, args)
            for parameter in self.params:
                _refuse_dash(parameter, ctx)
        return rest

    def invoke(self, ctx: click.Context) -> None:
        escape_unprintable()
        try:
            with _sigterm_stops():
                code = super().invoke(ctx)
        except BrokenPipeError:
            # Nothing reads the output any more, as with `| head`. Click exits quietly.
            raise
        except (UserError, OSError) as error:
            raise CommandError(str(error)) from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise CommandError(
                f"out of memory; use a smaller batch_size in the recipe ({one_line(error)})"
            ) from error
        except KeyboardInterrupt as stop:
            if sys.stderr.isatty():
                # The terminal shows ^C where its cursor is.
                echo_line("", err=True)
            echo_line(f"stopped; {RESUME_HINT}" if self.resumes else "stopped", err=True)
            ctx.exit(143 if isinstance(stop, _Terminated) else 130)
        ctx.exit(code or 0)


class CommandGroup(click.Group):
    """A group whose usage errors are one line, as those of its commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _usage_in_one_line(ctx):
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        with _usage_in_one_line(ctx):
            return super().resolve_command(ctx, args)


def _refuse_dash(parameter: click.Parameter, ctx: click.Context) -> None:
    """Refuse -, which stands for standard input or output, where neither can be used."""
    found = ctx.params.get(parameter.name or "")
    values = found if isinstance(found, tuple) else (found,)
    kind = parameter.type
    if isinstance(kind, click.Path) and not kind.allow_dash and Path("-") in values:
        expected = "file" if kind.file_okay else "folder"
        raise click.BadParameter(f"'-' is no {expected}; name one", ctx, parameter)


@contextmanager
def _usage_in_one_line(ctx: click.Context) -> Iterator[None]:
    """Turn an error of usage, which click shows in four lines, into a `CommandError`."""
    try:
        yield
    except click.UsageError as error:
        # The whole help, because nothing was asked for.
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            raise
        message = safe_line(error.format_message()).rstrip(".")
        path = (error.ctx or ctx).command_path
        raise CommandError(f"{message}; see {path} --help") from error


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@contextmanager
def _sigterm_stops() -> Iterator[None]:
    """Let SIGTERM raise `_Terminated` in this process, and end those that it forks as usual."""
    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() == owner:
            raise _Terminated
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
