"""Commands that bring a model into use: `export`, `quantize` and `bench`."""

from __future__ import annotations

from pathlib import Path

import click

from compress.cli.command import Command
from compress.cli.options import builder_option, load_builder, require_free, weights_options
from compress.recipe.registry import EXPORT_FORMATS, check_data_name
from compress.runtime.errors import UserError
from compress.runtime.files import require_file


def parse_counts(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Parse whole numbers above zero, separated by commas."""
    counts = tuple(int(part) if part.strip().isdecimal() else 0 for part in text.split(","))
    if not all(1 <= count <= 4096 for count in counts):
        raise click.BadParameter(f"{text!r}: write numbers of 1 or more, with commas")
    return counts


data_option = click.option(
    "--data", help="Data set that the network was trained on, if it has moved."
)

uint8_option = click.option(
    "--uint8",
    is_flag=True,
    help="Take pixels as they are, 0 to 255, and normalize them in the file.",
)


@click.command(cls=Command)
@weights_options
@click.option(
    "--to",
    "formats",
    default="onnx",
    show_default=True,
    help="Format, or several with commas: onnx, ….",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write; beside the weights file, with another suffix, if left out.",
)
@uint8_option
@data_option
def export(
    weights: Path,
    builder: str | None,
    formats: str,
    out: Path | None,
    uint8: bool,
    data: str | None,
) -> None:
    """Export a weights file for other runtimes.

    The written file is compared with the network on validation images before it is in place.
    """
    names = [EXPORT_FORMATS.check_name(name.strip()) for name in formats.split(",")]
    if out is not None and len(names) > 1:
        raise UserError("--out names one file; leave it out, or pass one format")
    require_file(weights)
    check_data_name(data)

    from compress.deployment.export import default_out, export
    from compress.deployment.formats import get_format

    outs = [out or default_out(weights, get_format(name).suffix) for name in names]
    for path in outs:
        require_free(path)
    function = load_builder(builder)
    for name, path in zip(names, outs, strict=True):
        result = export(weights, name, path, uint8=uint8, data=data, builder=function)
        click.echo(
            f"{path}: {path.stat().st_size:,} bytes; logits differ by at most"
            f" {result.max_difference:.1e}, {result.agreement:.2%} same classes on {result.images}"
        )


@click.command(cls=Command)
@weights_options
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File to write; model.int8.onnx beside model.pth, if left out.",
)
@click.option(
    "--max-drop",
    type=click.FloatRange(min=0),
    metavar="POINTS",
    help="Write nothing if more points of validation accuracy are lost.",
)
@click.option(
    "--finetune/--no-finetune",
    default=None,
    help="Fine-tune a copy of the network for int8; if left out, where more than 0.3 points of"
    " validation accuracy are lost without.",
)
@uint8_option
@data_option
def quantize(
    weights: Path,
    builder: str | None,
    out: Path | None,
    max_drop: float | None,
    finetune: bool | None,
    uint8: bool,
    data: str | None,
) -> None:
    """Quantize a network to int8 for onnxruntime.

    Static and per channel, calibrated on training images; fine-tuned on them where that loses too
    much. The weights file stays as it is.
    """
    require_file(weights)
    check_data_name(data)
    path = out or weights.with_suffix(".int8.onnx")
    require_free(path)

    from compress.deployment.formats import get_format
    from compress.quantization.quantize import quantize

    get_format("onnx")
    function = load_builder(builder)
    made = quantize(
        weights,
        path,
        uint8=uint8,
        max_drop=max_drop,
        finetune=finetune,
        data=data,
        builder=function,
        log=click.echo,
    )
    click.echo(f"{path}: {path.stat().st_size:,} bytes; {made.describe()}")


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--threads",
    callback=parse_counts,
    default="1",
    show_default=True,
    help="Numbers of threads, with commas.",
)
@click.option(
    "--batch",
    callback=parse_counts,
    default="1",
    show_default=True,
    help="Images in a batch; several numbers with commas.",
)
@click.option("--score", is_flag=True, help="Score files on their test split, which takes longer.")
@builder_option
def bench(
    files: tuple[Path, ...],
    threads: tuple[int, ...],
    batch: tuple[int, ...],
    score: bool,
    builder: str | None,
) -> None:
    """Time models side by side.

    FILES may also be run directories, whose teacher, student and final networks are timed. Each
    file has a process of its own; they take turns. Speeds are relative to the first file.
    """
    from compress.reporting.bench import bench_table, expand_runs

    paths, scores = expand_runs(files)
    for path in paths:
        require_file(path)

    from compress.cli.terminal import Terminal
    from compress.deployment.bench import bench_files

    timings = bench_files(paths, threads=threads, batch_sizes=batch, builder=builder)
    if score:
        from compress.deployment.load_model import load_model
        from compress.reporting.evaluation import score_test_split

        function = load_builder(builder)
        for path in paths:
            if scores.get(path) is None:
                correct, total = score_test_split(load_model(path, function))
                scores[path] = int(correct.sum()) / max(int(total.sum()), 1)
    Terminal().show(bench_table(timings, scores))
