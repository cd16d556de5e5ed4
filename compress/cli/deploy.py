"""Commands that bring a model into use: `export`, `quantize` and `bench`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click

from compress.cli.command import Command
from compress.cli.load import load_builder, make_foreign
from compress.cli.options import builders_option, foreign_options, require_free, weights_options
from compress.cli.output import echo_line
from compress.recipe.data_names import check_data_name
from compress.recipe.registry import EXPORT_FORMATS
from compress.runtime.arguments import require_threads
from compress.runtime.errors import UserError
from compress.runtime.files import require_file


def parse_counts(ctx: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Parse whole numbers above zero, separated by commas."""
    counts = tuple(int(part) if part.strip().isdecimal() else 0 for part in text.split(","))
    if not all(1 <= count <= 4096 for count in counts):
        raise click.BadParameter(f"{text!r}: write numbers of 1 or more, with commas")
    return counts


def parse_formats(text: str) -> list[str]:
    """Return names of export formats, written with commas.

    Raises:
        UserError: there is no such format.
    """
    names = [EXPORT_FORMATS.check_name(name.strip()) for name in text.split(",")]
    return list(dict.fromkeys(names))


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
    help="Format, or several with commas: onnx, pt2, openvino, executorch, litert.",
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
    names = parse_formats(formats)
    if out is not None and len(names) > 1:
        raise UserError("--out names one file; leave it out, or pass one format")
    require_file(weights)
    check_data_name(data)

    from compress.deployment.export import default_out, export
    from compress.deployment.formats import count_bytes, files_of, get_format
    from compress.models.tensor_file import require_weights

    require_weights(weights)
    outs = [out or default_out(weights, get_format(name).suffix) for name in names]
    for file in (file for path in outs for file in files_of(path)):
        require_free(file)
    function = load_builder(builder)
    for name, path in zip(names, outs, strict=True):
        result = export(weights, name, path, uint8=uint8, data=data, builder=function)
        echo_line(
            f"{path}: {count_bytes(path):,} bytes; logits differ by at most"
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
    help="Write nothing if more points of validation accuracy, or mIoU, are lost.",
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

    get_format("onnx").require_suffix(path)
    function = load_builder(builder)
    made = quantize(
        weights,
        path,
        uint8=uint8,
        max_drop=max_drop,
        finetune=finetune,
        data=data,
        builder=function,
        log=echo_line,
    )
    echo_line(f"{path}: {path.stat().st_size:,} bytes; {made.describe()}")


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
@click.option(
    "--to",
    "formats",
    help="Time weights files in these formats, with commas: onnx, …; exported for the benchmark.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="JSON file to write, too; as bench.json in a run directory, its report shows it.",
)
@click.option("--score", is_flag=True, help="Score files on their test split, which takes longer.")
@click.option("--data", help="With --score: data of files that do not name theirs, or if it moved.")
@builders_option
@foreign_options
def bench(
    files: tuple[Path, ...],
    threads: tuple[int, ...],
    batch: tuple[int, ...],
    formats: str | None,
    out: Path | None,
    score: bool,
    data: str | None,
    builders: tuple[str, ...],
    classes: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    image_size: int | None,
) -> None:
    """Time models side by side.

    FILES may also be run directories, whose teacher, student and final networks are timed, and the
    exported files there. Each file has a process of its own; they take turns. Speeds are relative
    to the first file.
    """
    from compress.reporting.bench import (
        bench_table,
        export_contenders,
        list_contenders,
        score_contender,
    )
    from compress.reporting.bench_file import write_bench

    names = parse_formats(formats) if formats else []
    for count in threads:
        require_threads(count)
    check_data_name(data)
    if out is not None:
        require_free(out)
    contenders = list_contenders(files)
    for each in contenders:
        require_file(each.file)

    from compress.cli.terminal import Terminal
    from compress.deployment.bench import bench_files

    with TemporaryDirectory() as folder:
        if names:
            contenders = export_contenders(contenders, names, Path(folder), builders)
        timings = bench_files(
            [each.file for each in contenders],
            threads=threads,
            batch_sizes=batch,
            builders=builders,
            image_size=image_size,
        )
        if score:
            foreign = make_foreign(classes, mean, std, image_size)
            contenders = [score_contender(each, builders, foreign, data) for each in contenders]
        if out is not None:
            write_bench(timings, contenders, out)
        table = bench_table(timings, contenders)
    Terminal().show(table)
