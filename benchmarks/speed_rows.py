"""The rows of `speed.py`: each measures ours and the other side in turns."""

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

import torch
from bursts import Setting, taking_turns
from op_times import KINDS, product_rate

from compress.runtime.device import can_compile
from compress.runtime.errors import one_line

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
    stage, work = (
        replace(setting.stage("teach"), scale=1.0),
        f"train {setting.plan.recipe.teacher.name}",
    )
    ways = [(work, stage)]
    if setting.compiled and can_compile(setting.device):
        ways.append((f"{work}: compiled", replace(stage, compile=True)))
    for how, each in ways:
        pairs = taking_turns(setting, setting.ours(each), setting.plain("teach"))
        yield Line(1, how, pairs, "images/s", "≥ 1.5")


def distill(setting: Setting) -> Iterator[Line]:
    stage, student, full = (
        setting.stage("distill"),
        setting.plan.recipe.student,
        setting.plan.data.image_size,
    )
    work = f"distill {setting.plan.recipe.teacher.name} into {student.name}"
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
    teacher, student = setting.plan.recipe.teacher, setting.plan.recipe.student
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


def arithmetic(setting: Setting) -> Iterator[Line]:
    if setting.device.type != "cpu":
        return
    recipe = setting.plan.recipe
    works = {
        "distill": f"distill {recipe.teacher.name} into {recipe.student.name}, at full size",
        "finetune": f"fine-tune {setting.weights.stem}, logits cached",
    }
    for kind, work in works.items():
        cached = kind == "finetune"
        ours = setting.ours(replace(setting.stage(kind), scale=1.0), cached=cached)
        theirs = setting.plain(kind)
        # Fine-tuning caches the logits of the whole view.
        setting.rate(ours)
        macs = setting.training_macs(kind, teacher=not cached)
        pairs = [
            (macs * setting.rate(ours) / 1e9, product_rate() / 1e9) for _ in range(setting.repeats)
        ]
        how = "multiply-adds, against those of matrix products in bfloat16"
        yield Line(10, f"{work}: {how}", pairs, "G/s")
        traced = [(setting.shares(ours), setting.shares(theirs)) for _ in range(setting.repeats)]
        for part in KINDS:
            pairs = [(one[part], other[part]) for one, other in traced]
            yield Line(10, f"{work}: time in {part}", pairs, "%")


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
    10: arithmetic,
}
