"""The class of all commands: errors in one line, exit codes, Ctrl-C.

Does not import torch.
"""

from __future__ import annotations

from typing import Any

import click

from compress.runtime.distributed import RESUME_HINT
from compress.runtime.errors import UserError, is_out_of_memory, one_line

CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}


class CommandError(click.ClickException):
    """An error that ends a command: one line on standard error, and exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.format_message()}", err=True)


class Command(click.Command):
    """A command that reports errors of the user, the disk and the memory in one line.

    These end it with exit code 2, and Ctrl-C with 130. Errors of the program keep their traceback.
    An int that the function returns is the exit code.

    Args:
        resumes: tell the user, after Ctrl-C, that the same command resumes.
    """

    def __init__(self, *args: Any, resumes: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": CONTEXT_SETTINGS} | kwargs)
        self.resumes = resumes

    def invoke(self, ctx: click.Context) -> None:
        try:
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
        except KeyboardInterrupt:
            click.echo(f"stopped; {RESUME_HINT}" if self.resumes else "stopped", err=True)
            ctx.exit(130)
        ctx.exit(code or 0)
