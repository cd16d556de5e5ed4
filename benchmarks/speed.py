"""Compare the speed of `compress` with a plain script (plain.py), side by side.

    # A quarter of an hour on two CPU cores.
    python benchmarks/speed.py
    # Seconds a row; the figures mean little.
    python benchmarks/speed.py --quick --rows 3

Both sides train the same networks on the same images, with the same batch size, on this machine.
"Ours" are the stages of a run, with everything that they do in a step; the ends of epochs
(validation, saving) are not timed on either side. The two sides take turns in short bursts, so that
other load on the machine affects both. The table shows medians over the bursts, and the range of
the ratio. Networks are those of the recipe, with random weights, which make no difference to speed.

Rows:

 1  train the teacher; the same, compiled
 2  distill the teacher into the student, running the teacher live on both sides: first as in the
    recipe (at its own image size, against full size), then like for like
 3  fine-tune a pruned network with cached logits, against a live teacher; then with a live teacher
    on both sides, as in the first pass over a view; then compiled
 4  a step of fine-tuning with cached logits, against a step on labels alone
 5  peak memory of a process that does a few steps of 1, 2 and 3 (no pruning): on a CPU, of the
    whole process, with the same imports on both sides and without the plain script's workers; on
    a GPU, as allocated by torch
 6  time from the start of `compress run` to the first training step, without importing torch and
    torchvision and without loading data
 7  distill as in 2, like for like, against torchdistill on the plain script's batches (install it
    first: `pip install torchdistill`; without it, the row says so)
 8  on a GPU: fraction of the time in which it is busy, for each kind of training, from a
    profiler's trace of its kernels
 9  as many processes as there are GPUs or cores, each with its shard of every batch, against one
    process on one GPU, or with as many threads
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch
from bursts import WARM, Setting, taking_turns
from rich.console import Console

from compress.recipe import load as recipes
from compress.reporting.tables import Table
from compress.runtime.device import can_compile, device_name, package_versions, pick_device
from compress.runtime.errors import UserError, one_line

HERE = Path(__file__).resolve().parent
# The goal of row 6.
START_UP_SECONDS = 2.0


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Args:
        pairs: measurements of ours and of the other side, in `unit`; empty if nothing could be
            measured, and `work` says why.
    """

    row: int
    work: str
    pairs: list[tuple[float, float]]
    unit: str
    goal: str = ""

    def cells(self) -> list[str]:
        """Return the line's cells: medians of both sides, median and range of their ratio."""
        if not self.pairs:
            return [str(self.row), self.work, *"-----", self.goal]
        ratios = [ours / theirs for ours, theirs in self.pairs]
        ours, theirs, ratio = (
            statistics.median(values) for values in (*zip(*self.pairs, strict=True), ratios)
        )
        shown = [f"{value:,.0f}" if value >= 100 else f"{value:.2f}" for value in (ours, theirs)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}" if len(ratios) > 1 else "-"
        return [str(self.row), self.work, *shown, self.unit, f"{ratio:.2f}", spread, self.goal]


def teach(setting: Setting) -> Iterator[Line]:
    stage, work = replace(setting.stage("teach"), scale=1.0), f"train {setting.recipe.teacher.name}"
    ways = [(work, stage)]
    if setting.compiled and can_compile(setting.device):
        ways.append((f"{work}: compiled", replace(stage, compile=True)))
    for how, each in ways:
        pairs = taking_turns(setting, setting.ours(each), setting.plain("teach"))
        yield Line(1, how, pairs, "images/s", "≥ 1.5")


def distill(setting: Setting) -> Iterator[Line]:
    stage, student, full = (
        setting.stage("distill"),
        setting.recipe.student,
        setting.plan.data.image_size,
    )
    work = f"distill {setting.recipe.teacher.name} into {student.name}"
    ways = [
        (
            stage,
            student,
            f"as the recipe, {student.stem} stem"
            f" at {round(setting.plan.data.image_size * stage.scale)} px; theirs {full} px",
        )
    ]
    whole = replace(stage, scale=1.0)
    ways += [
        (whole, network, f"{network.stem} stem at {full} px on both sides")
        for network in (student, replace(student, stem="imagenet"))
    ]
    for stage, network, how in ways[: 2 if student.stem == "imagenet" else 3]:
        pairs = taking_turns(
            setting, setting.ours(stage, network), setting.plain("distill", network)
        )
        yield Line(2, f"{work}: {how}", pairs, "images/s", "≥ 3")


def finetune(setting: Setting) -> Iterator[Line]:
    stage = setting.stage("finetune")
    # Caches the logits of the whole view.
    setting.rate(setting.ours(stage, cached=True))
    ways = [("logits cached", stage, True), ("ours live too", stage, False)]
    if setting.compiled and can_compile(setting.device):
        ways.append(("logits cached, compiled", replace(stage, compile=True), True))
    for how, stage, kept in ways:
        pairs = taking_turns(setting, setting.ours(stage, cached=kept), setting.plain("finetune"))
        yield Line(
            3, f"fine-tune {setting.weights.stem}: {how}", pairs, "images/s", "≥ 10" if kept else ""
        )


def cached_logits(setting: Setting) -> Iterator[Line]:
    stage = setting.stage("finetune")
    distilled, labels = setting.ours(stage, cached=True), setting.ours(replace(stage, alpha=0.0))
    setting.rate(distilled)
    rates = taking_turns(setting, distilled, labels)
    pairs = [(1e6 / one, 1e6 / other) for one, other in rates]
    yield Line(4, "fine-tune with cached logits, against labels alone", pairs, "µs/image", "≤ 1.1")


def peak(setting: Setting, which: str) -> int:
    """Return the peak memory of this process, in bytes, after a few steps of each kind."""
    for kind in ("teach", "distill", "finetune"):
        setting.rate(setting.ours(setting.stage(kind)) if which == "ours" else setting.plain(kind))
    if setting.device.type == "cuda":
        return torch.cuda.max_memory_allocated(setting.device)
    # The resource module's figure would include the parent's.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def memory(setting: Setting) -> Iterator[Line]:
    whole = replace(setting, recipe=replace(setting.recipe, max_images=None))

    def child(which: str) -> float:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(peak, whole, which).result() / 1e6

    pairs = [(child("ours"), child("plain"))]
    yield Line(5, "peak memory: teach, distill, fine-tune", pairs, "MB", "≤ 1")


def start_up(setting: Setting) -> Iterator[Line]:
    pairs = []
    for _ in range(setting.repeats):
        with TemporaryDirectory() as folder:
            arguments = [setting.name, "--out", f"{folder}/run", "--device", setting.device.type]
            command = [
                sys.executable,
                str(HERE / "first_step.py"),
                str(time.monotonic()),
                *arguments,
            ]
            paths = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
            done = subprocess.run(command, env=paths, check=True, stdout=subprocess.PIPE, text=True)
        total, importing, loading = map(float, done.stdout.split()[-3:])
        pairs.append((total - importing - loading, START_UP_SECONDS))
    yield Line(6, "start of `compress run` to its first step, against the goal", pairs, "s", "≤ 1")


def framework(setting: Setting) -> Iterator[Line]:
    teacher, student = setting.recipe.teacher, setting.recipe.student
    work = (
        f"distill {teacher.name} into {student.name},"
        f" {student.stem} stem at {setting.plan.data.image_size} px"
    )
    try:
        import by_torchdistill
    except ImportError as error:
        yield Line(7, f"{work}: torchdistill cannot be imported: {one_line(error)}", [], "images/s")
        return
    ours = setting.ours(replace(setting.stage("distill"), scale=1.0))
    pairs = taking_turns(setting, ours, setting.plain("distill", train=by_torchdistill.train))
    yield Line(7, f"{work}, against torchdistill {version('torchdistill')}", pairs, "images/s")


def busy(setting: Setting) -> Iterator[Line]:
    if setting.device.type != "cuda":
        return
    for kind, kept in (
        ("teach", False),
        ("distill", False),
        ("finetune", False),
        ("finetune", True),
    ):
        ours, theirs = setting.ours(setting.stage(kind), cached=kept), setting.plain(kind)
        if kept:
            # Caches the logits of the whole view.
            setting.rate(ours)
        pairs = [
            (100 * setting.busy(ours), 100 * setting.busy(theirs)) for _ in range(setting.repeats)
        ]
        yield Line(
            8,
            f"the GPU is at work: {kind}{', logits cached' if kept else ''}",
            pairs,
            "% of the time",
        )


def together(setting: Setting) -> Iterator[Line]:
    on_cpu = setting.device.type == "cpu"
    number = torch.get_num_threads() if on_cpu else torch.cuda.device_count()
    unit = "cores" if on_cpu else "GPUs"

    def burst(kind: str, processes: int) -> float:
        words = (
            setting.name,
            setting.weights,
            setting.device.type,
            setting.steps,
            setting.recipe.batch_size,
            kind,
        )
        launcher = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
        ]
        command = [sys.executable, *launcher, str(HERE / "by_processes.py"), *map(str, words)]
        threads = str(number // processes) if on_cpu else "1"
        changed = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": threads}
        done = subprocess.run(
            command, env=os.environ | changed, check=True, stdout=subprocess.PIPE, text=True
        )
        return float(done.stdout.split()[-1])

    if number < 2:
        yield Line(9, f"several processes: there are no two {unit} here", [], "images/s")
        return
    for kind in ("teach", "distill", "finetune"):
        pairs = [(burst(kind, number), burst(kind, 1)) for _ in range(setting.repeats)]
        yield Line(9, f"{kind}: {number} processes against one, {number} {unit}", pairs, "images/s")


ROWS = {
    1: teach,
    2: distill,
    3: finetune,
    4: cached_logits,
    5: memory,
    6: start_up,
    7: framework,
    8: busy,
    9: together,
}
HEADINGS = ["", "work", "ours", "plain", "", "ratio", "range", "goal"]


def numbers(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    """Parse numbers of rows, such as ``1,3``."""
    wanted = {part.strip() for part in text.split(",")}
    if not wanted <= {str(row) for row in ROWS}:
        raise click.BadParameter(
            f"{text!r}: rows are {', '.join(map(str, ROWS))}, with commas between"
        )
    return sorted(map(int, wanted))


@click.command(help=__doc__.split("\n")[0])
@click.option(
    "--recipe",
    "name",
    default="default",
    show_default=True,
    help="A shipped recipe's name, or a TOML file.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    default=HERE.parent / "weights" / "fashion-mnist-100k.pth",
    help="The pruned student that is fine-tuned.  [default: the shipped one of 100k]",
)
@click.option("--rows", default=",".join(map(str, ROWS)), show_default=True, callback=numbers)
@click.option(
    "--steps",
    default=10,
    show_default=True,
    type=click.IntRange(min=1),
    help="Steps timed in a burst.",
)
@click.option(
    "--repeats",
    default=5,
    show_default=True,
    type=click.IntRange(min=1),
    help="Bursts of each side.",
)
@click.option(
    "--workers",
    default=min(4, os.cpu_count() or 1),
    show_default=True,
    help="Of the plain DataLoader.",
)
@click.option(
    "--compile/--no-compile",
    "compiled",
    default=True,
    show_default=True,
    help="Rows 1 and 3 so as well.",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
)
@click.option(
    "--quick", is_flag=True, help="Two bursts of two steps of 32 images: to see that it works."
)
def main(
    name: str,
    weights: Path,
    rows: list[int],
    steps: int,
    repeats: int,
    workers: int,
    compiled: bool,
    device: str,
    quick: bool,
) -> None:
    console = Console()
    steps, repeats = (2, 2) if quick else (steps, repeats)
    try:
        recipe = recipes.load_recipe(name, {"batch_size": 32} if quick else {})
        # A burst of ours is one epoch.
        # The stages stay, however few the images.
        recipe = replace(recipe, max_images=(WARM + steps) * recipe.batch_size, small_data=None)
        with TemporaryDirectory() as folder:
            on = pick_device(device)
            setting = Setting(
                name, recipe, weights, on, steps, repeats, workers, compiled, Path(folder)
            )
            lines = []
            for row in rows:
                for line in ROWS[row](setting):
                    lines.append(line.cells())
                    # Each line is printed at once: the others take minutes.
                    told = "  ".join(lines[-1])
                    console.print(told, markup=False, highlight=False, soft_wrap=True)
    except UserError as error:
        raise click.UsageError(str(error)) from error

    how = (
        f"{device_name(setting.device)}; torch {package_versions()['torch']};"
        f" batch {recipe.batch_size}; "
    )
    how += f"{repeats} bursts of {steps} steps; the plain script's DataLoader has {workers} workers"
    table = Table(HEADINGS, lines, left=2)
    console.print(table.as_rich())
    text = table.as_markdown()
    console.print(f"{how}:\n\n{text}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
