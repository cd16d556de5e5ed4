"""benchmarks/speed.py on the tiny data set: what its table rests on."""

from __future__ import annotations

import copy
import itertools
import math
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tiny import CLASSES, Tiny
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from compress.models import checkpoint
from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec

SLOW = """
import time
import tinynets


def teacher(num_classes):
    network = tinynets.teacher(num_classes)
    network.register_forward_hook(lambda *_: time.sleep(0.3))
    return network
"""


@pytest.fixture(autouse=True)
def scripts(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the benchmarks, as running one of them has it; a person's own networks lie where they work."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    monkeypatch.chdir(tiny.root)


@pytest.fixture(scope="module")
def weights(tiny: Tiny) -> Path:
    network = ModelSpec("tinynets:student")
    kept = Checkpoint(
        build(network, 4).eval(), network, CLASSES, (3, 16, 16), (0.5,) * 3, (0.5,) * 3, "made up"
    )
    checkpoint.save(kept, tiny.root / "pruned.pth")
    return tiny.root / "pruned.pth"


def table(*words: object) -> Iterator[dict[str, str]]:
    """The rows of the Markdown that the benchmark ends with."""
    from speed import HEADINGS, main

    done = CliRunner().invoke(
        main, [str(word) for word in (*words, "--workers", 0, "--device", "cpu", "--no-compile")]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"torch {torch.__version__.split('+')[0]}" in done.output and "1 threads" in done.output
    lines = [
        line.strip("| ").split(" | ") for line in done.output.splitlines() if line.startswith("| ")
    ]
    names = ["row", *HEADINGS[1:4], "unit", *HEADINGS[5:]]
    return (dict(zip(names, line, strict=False)) for line in lines[2:])


def test_every_row_is_measured(tiny: Tiny, weights: Path) -> None:
    rows = list(table("--recipe", tiny.recipe, "--weights", weights, "--steps", 1, "--repeats", 2))
    assert {row["row"] for row in rows} == set("12345679")
    for row in (
        row for row in rows if row["ours"] != "-"
    ):  # torchdistill may not be there, nor a second core
        ours, theirs, ratio = (
            float(row[name].replace(",", "")) for name in ("ours", "plain", "ratio")
        )
        assert math.isfinite(ratio) and ours > 0 and theirs > 0, row


def test_kept_answers_spare_the_teacher_and_live_ones_do_not(tiny: Tiny, weights: Path) -> None:
    (tiny.root / "slownets.py").write_text(SLOW)
    recipe = tiny.variant("slow.toml", ("tinynets:teacher", "slownets:teacher"))
    rows = {row["work"].split(": ")[-1]: row for row in table(
        "--recipe", recipe, "--weights", weights, "--rows", 3, "--steps", 2, "--repeats", 1
    )}  # fmt: skip
    asked = 32 / 0.3  # images a second that a step can reach at most, with a batch of 32
    assert float(rows["ours live too"]["ours"].replace(",", "")) < asked
    assert all(float(row["plain"].replace(",", "")) < asked for row in rows.values())
    assert float(rows["answers kept"]["ours"].replace(",", "")) > asked


def test_processes_share_a_burst(tiny: Tiny, weights: Path) -> None:
    script = str(Path(__file__).parent.parent / "benchmarks" / "by_processes.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [tiny.recipe, weights, "cpu", 1, 32, "finetune"]
    command = [sys.executable, *launcher, script, *map(str, words)]
    paths = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tiny.root), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^images/s (\d+\.\d+)$", done.stdout, re.M), done.stdout  # said once


def test_the_table_does_without_torchdistill(
    tiny: Tiny, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "by_torchdistill", raising=False)
    monkeypatch.setitem(sys.modules, "torchdistill.core.distillation", None)
    rows = list(
        table(
            "--recipe",
            tiny.recipe,
            "--weights",
            weights,
            "--rows",
            "4,7",
            "--steps",
            1,
            "--repeats",
            1,
        )
    )
    assert "torchdistill cannot be imported" in rows[1]["work"] and rows[1]["ours"] == "-"
    assert float(rows[0]["ours"].replace(",", "")) > 0


def test_torchdistill_is_set_up_to_do_what_the_plain_script_does() -> None:
    pytest.importorskip("torchdistill")
    import by_torchdistill
    import plain
    from bursts import WARM, Enough, Stopwatch

    batches: Any = [(torch.randn(8, 3, 4, 4), torch.randint(5, (8,))) for _ in range(WARM + 2)]
    networks = [
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 5))
        for _ in range(2)
    ]
    networks[1].load_state_dict({key: value * 3 for key, value in networks[1].state_dict().items()})
    learned = []
    for train in (plain.train, by_torchdistill.train):
        student, teacher = copy.deepcopy(networks)
        with pytest.raises(Enough):
            train(student, batches, teacher, Stopwatch(2, torch.device("cpu")), torch.device("cpu"))
        learned.append(torch.cat([value.flatten() for value in student.state_dict().values()]))
    began = torch.cat([value.flatten() for value in networks[0].state_dict().values()])
    assert (learned[0] - began).abs().max() > 3e-4
    torch.testing.assert_close(*learned)


def test_the_clock_counts_the_steps_after_the_warm_up_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import bursts

    took, shown = [0.2] * bursts.WARM + [0.02] * 5, []
    clock = SimpleNamespace(perf_counter=lambda: sum(took[: len(shown)]))
    monkeypatch.setattr(bursts, "time", clock)
    events = bursts.Stopwatch(4, torch.device("cpu"))
    with pytest.raises(bursts.Enough):
        for batch in events.progress([(torch.zeros(8, 1),)] * len(took), 0, ""):
            shown.append(batch)
    assert len(shown) == bursts.WARM + 4 and events.rate == pytest.approx(8 / 0.02)


class Trace:
    """In the profiler's place: 30 of each 50 ms there is a kernel, or two side by side, and much else in between."""

    def start(self) -> None:
        self.began = time.perf_counter()

    def stop(self) -> None:
        self.took = time.perf_counter() - self.began

    def events(self) -> list[FunctionEvent]:
        cuda, found = {"device_type": DeviceType.CUDA}, []
        for begin in range(0, round(self.took * 1e6), 50_000):
            for name, first, last, more in (
                ("gemm", 0, 20_000, cuda),
                ("relu", 10_000, 12_000, cuda),
                ("conv", 10_000, 30_000, cuda),
                ("Memcpy HtoD (Pinned -> Device)", 30_000, 45_000, cuda),
                ("Memset (Device)", 30_000, 45_000, cuda),
                ("Optimizer.step#AdamW.step", 0, 50_000, cuda | {"is_user_annotation": True}),
                ("aten::conv2d", 0, 50_000, {}),
            ):
                found.append(
                    FunctionEvent(len(found), name, 0, begin + first, begin + last, **more)
                )
        return found


def test_a_gpu_is_at_work_while_a_kernel_is() -> None:
    from bursts import WARM, Enough, Stopwatch

    events, steps = Stopwatch(20, torch.device("cpu"), Trace()), itertools.count()  # type: ignore[arg-type]
    with pytest.raises(Enough):
        for _ in events.progress(itertools.repeat((torch.zeros(8, 1),)), 0, ""):
            time.sleep(0.2 if next(steps) < WARM else 0.05)
    assert events.busy == pytest.approx(0.6, abs=0.06)


def test_what_intervals_cover_is_counted_once() -> None:
    from busy import covered

    draw = random.Random(0)
    for number in range(50):
        spans = [
            (begin := draw.randrange(40), begin + draw.randrange(10)) for _ in range(number % 9)
        ]
        inside = {tick for begin, end in spans for tick in range(begin, end)}
        assert covered(spans) == len(inside)
