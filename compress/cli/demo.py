"""The command `demo`: networks on a page, served here or written as a folder."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.command import Command
from compress.cli.load import make_foreign
from compress.cli.options import builders_option, foreign_options
from compress.cli.output import echo_line
from compress.runtime.errors import UserError
from compress.runtime.files import format_size, require_file


@click.command(cls=Command)
@click.option(
    "-w",
    "--weights",
    "files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    help="Weights file or exported file; twice for two networks side by side.",
)
@builders_option
@click.option(
    "--static",
    "out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write a folder for any web server, whose networks run in the browser; serve nothing.",
)
@click.option(
    "--sample",
    "samples",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="IMAGE",
    help="With --static: an image that the page offers; may be repeated.",
)
@click.option(
    "--ort",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="With --static: onnxruntime-web, if it is not to be fetched from the npm registry.",
)
@click.option(
    "--host", help="Address to serve at; 127.0.0.1, which only this machine reaches, if left out."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port to serve at; the first free one from 7860 on, if left out.",
)
@foreign_options
def demo(
    files: tuple[Path, ...],
    builders: tuple[str, ...],
    out: Path | None,
    samples: tuple[Path, ...],
    ort: Path | None,
    host: str | None,
    port: int | None,
    classes: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    image_size: int | None,
) -> None:
    """Show networks at work on a page.

    An image goes in; classes, milliseconds and the size of the file come out. The page is served on
    this machine until Ctrl-C, or written as a folder that needs no Python.
    """
    foreign = (classes, mean, std, image_size)
    for file in files:
        require_file(file)
    if out is None:
        if samples or ort:
            raise UserError("--sample and --ort are for a page in a folder; pass --static, too")
        _serve(files, builders, host, port, foreign)
        return
    if host or port:
        raise UserError("--host and --port serve a page, and --static writes one; pass either")
    if any(foreign):
        raise UserError(
            "--classes, --mean, --std and --image-size are for files of other programs, which"
            " --static does not take; leave out --static, or them"
        )

    from compress.demo.static_page import write_static

    size = write_static(files, out, builders=builders, ort=ort, samples=samples)
    echo_line(
        f"{out}: {format_size(size)}; any web server serves it, as `python -m http.server -d {out}`"
    )


def _serve(
    files: tuple[Path, ...],
    builders: tuple[str, ...],
    host: str | None,
    port: int | None,
    foreign: tuple[str | None, tuple[float, ...] | None, tuple[float, ...] | None, int | None],
) -> None:
    from compress.demo.server import require_gradio, serve

    require_gradio()

    from compress.demo.models import open_models

    models = open_models(files, builders, make_foreign(*foreign))
    serve(
        models,
        host or "127.0.0.1",
        port,
        lambda address: echo_line(f"serving at {address}; stop with Ctrl-C"),
    )
