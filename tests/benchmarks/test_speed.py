"""benchmarks/speed.py on the tiny data set."""

from __future__ import annotations

import copy
import importlib
import itertools
import math
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tiny import CLASSES, Compress, Tiny, enter
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torchrun import finish_both, start_both

from compress.models import checkpoint
from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.recipe.model_spec import ModelSpec

COUNTING = """
import tinynets

images = []


def teacher(num_classes):
    network = tinynets.teacher(num_classes)
    network.register_forward_hook(lambda module, inputs, output: images.append(len(inputs[0])))
    return network
"""


@pytest.fixture(scope="module")
def weights(tiny: Tiny) -> Path:
    spec = ModelSpec("tinynets:student")
    network, size = build(spec, 4).eval(), (3, 16, 16)
    kept = Checkpoint(network, spec, CLASSES, size, (0.5,) * 3, (0.5,) * 3, "made up")
    checkpoint.save(kept, tiny.root / "pruned.pth")
    return tiny.root / "pruned.pth"


def table(*words: object) -> Iterator[dict[str, str]]:
    """Run the benchmark, and yield the rows of its Markdown table."""
    from speed import HEADINGS, main

    fixed = ("--workers", 0, "--device", "cpu", "--no-compile")
    done = CliRunner().invoke(main, [str(word) for word in (*words, *fixed)])
    assert done.exit_code == 0, (done.output, done.exception)
    assert f"torch {torch.__version__.split('+')[0]}" in done.output
    rows = [line for line in done.output.splitlines() if line.startswith("| ")]
    names = ["row", *HEADINGS[1:4], "unit", *HEADINGS[5:]]
    cells = (line.strip("| ").split(" | ") for line in rows[2:])
    return (dict(zip(names, row, strict=False)) for row in cells)


@pytest.mark.slow
def test_every_row_is_measured(tiny: Tiny, weights: Path) -> None:
    words = ("--recipe", tiny.recipe, "--weights", weights, "--steps", 1)
    # Row 6 starts a process each time.
    rows = list(table(*words, "--rows", "1,2,3,4,5,7,8,9,10", "--repeats", 2))
    rows += table(*words, "--rows", 6, "--repeats", 1)
    assert {row["row"] for row in rows} == {*"12345679", "10"}
    measured = [row for row in rows if row["ours"] != "-"]
    # Without torchdistill, or a second core, a row is not measured.
    assert len(measured) >= len(rows) - 2
    for row in measured:
        ours, _, ratio = (float(row[key].replace(",", "")) for key in ("ours", "plain", "ratio"))
        assert math.isfinite(ratio) and ours > 0, row


def test_the_default_keeps_its_stages_and_batches_in_a_burst(tiny: Tiny) -> None:
    from bursts import WARM, for_bursts

    from compress.data.open_dataset import open_dataset
    from compress.pipeline.fit_to_data import fit_to_data
    from compress.recipe.load import load_recipe

    recipe = for_bursts(load_recipe("default", {"data": f"folder:{tiny.data}"}), 10)
    assert (recipe.batch_size, recipe.max_images) == (256, (WARM + 10) * 256)
    fitted, _ = fit_to_data(recipe, open_dataset(recipe.data))
    assert [s.kind for s in fitted.stages] == [s.kind for s in load_recipe("default").stages]


def test_a_burst_trains_the_networks_of_a_run(tiny: Tiny, weights: Path) -> None:
    from bursts import Setting

    from compress.recipe.load import load_recipe

    table = {"data": f"folder:{tiny.data}", "student": {"name": "resnet18", "stem": "auto"}}
    recipe = load_recipe(str(tiny.recipe), table)
    setting = Setting("", recipe, weights, torch.device("cpu"), 1, 1, 0, False, tiny.root / "none")
    made = setting._model("distill", None)
    assert made.conv1.stride == (1, 1)  # of 16 pixels, the stem shrinks none


def test_cached_logits_spare_the_teacher_and_live_ones_do_not(tiny: Tiny, weights: Path) -> None:
    from bursts import WARM, Setting

    from compress.recipe.load import load_recipe

    (tiny.root / "countingnets.py").write_text(COUNTING)
    images: list[int] = importlib.import_module("countingnets").images
    file = tiny.variant("counting.toml", ("tinynets:teacher", "countingnets:teacher"))
    recipe = load_recipe(str(file), {"max_images": (WARM + 2) * 32})
    cache = tiny.root / "counted"
    setting = Setting(str(file), recipe, weights, torch.device("cpu"), 2, 1, 0, False, cache)
    stage, seen = setting.stage("finetune"), {}
    for name, cached in (("live", False), ("filling", True), ("cached", True)):
        images.clear()
        setting.rate(setting.ours(stage, cached=cached))
        seen[name] = sum(images)
    images.clear()
    setting.rate(setting.plain("finetune"))
    assert seen == {"live": (WARM + 2) * 32, "filling": (WARM + 2) * 32, "cached": 0}
    assert sum(images) == (WARM + 2) * 32


def time_burst(words: list[str], *place: Any) -> None:
    """Stand in for `command_line`."""
    enter(*place)
    sys.argv[1:] = words
    importlib.import_module("by_processes").main()


@pytest.mark.slow
def test_processes_share_a_burst(start: Compress, tiny: Tiny, weights: Path) -> None:
    words = (tiny.recipe, weights, "cpu", 1, 32, "finetune")
    out, _ = finish_both(start_both(start, *words, target=time_burst))
    # Only the main process prints.
    assert len(re.findall(r"^images/s (\d+\.\d+)$", out, re.M)) == 1, out


def test_the_table_does_without_torchdistill(
    tiny: Tiny, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "by_torchdistill", raising=False)
    monkeypatch.setitem(sys.modules, "torchdistill.core.distillation", None)
    words = ("--recipe", tiny.recipe, "--weights", weights, "--rows", "4,7")
    rows = list(table(*words, "--steps", 1, "--repeats", 1))
    assert "torchdistill cannot be imported" in rows[1]["work"] and rows[1]["ours"] == "-"
    assert float(rows[0]["ours"].replace(",", "")) > 0


def test_torchdistill_is_set_up_to_do_what_the_plain_script_does() -> None:
    pytest.importorskip("torchdistill")
    import by_torchdistill
    import plain

    batches: Any = [(torch.randn(8, 3, 4, 4), torch.randint(5, (8,))) for _ in range(5)]
    networks = [
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 5))
        for _ in range(2)
    ]
    networks[1].load_state_dict({key: value * 3 for key, value in networks[1].state_dict().items()})
    trained = []
    for train in (plain.train, by_torchdistill.train):
        student, teacher = copy.deepcopy(networks)
        images = list(itertools.islice(train(student, batches, teacher, torch.device("cpu")), 5))
        assert images == [8] * 5
        trained.append(torch.cat([value.flatten() for value in student.state_dict().values()]))
    before = torch.cat([value.flatten() for value in networks[0].state_dict().values()])
    assert (trained[0] - before).abs().max() > 3e-4
    torch.testing.assert_close(*trained)


class Clock:
    """A clock that only moves when it is set forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import bursts

        self.now = 0.0
        monkeypatch.setattr(bursts.time, "perf_counter", lambda: self.now)

    def train(self, warm: float, step: float) -> Iterator[int]:
        """Train endlessly: steps of the warm-up take `warm` s, timed steps `step` s."""
        import bursts

        for number in itertools.count():
            self.now += warm if number < bursts.WARM else step
            yield 8


def test_only_steps_after_the_warm_up_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    import bursts

    clock = Clock(monkeypatch)
    burst = bursts.time_burst(lambda: clock.train(0.2, 0.02), 4, torch.device("cpu"))
    assert burst.rate == pytest.approx(8 / 0.02)
    assert clock.now == pytest.approx(bursts.WARM * 0.2 + 4 * 0.02)


class Trace:
    """Stands in for the profiler.

    Kernels run in 30 of each 50 ms, sometimes two at once, among events that do not count.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def start(self) -> None:
        self.began = self.clock.now

    def stop(self) -> None:
        self.took = self.clock.now - self.began

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
                event = FunctionEvent(len(found), name, 0, begin + first, begin + last, **more)
                found.append(event)
        return found


def test_a_gpu_is_at_work_while_a_kernel_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import bursts

    clock = Clock(monkeypatch)
    trace: Any = Trace(clock)
    burst = bursts.time_burst(lambda: clock.train(0.2, 0.05), 20, torch.device("cpu"), trace)
    assert burst.busy == pytest.approx(0.6)


def test_overlapping_intervals_count_once() -> None:
    from busy import covered

    draw = random.Random(0)
    for number in range(50):
        starts = [draw.randrange(40) for _ in range(number % 9)]
        spans = [(start, start + draw.randrange(10)) for start in starts]
        inside = {tick for begin, end in spans for tick in range(begin, end)}
        assert covered(spans) == len(inside)


def test_each_operation_counts_once_in_the_shares_of_time() -> None:
    from op_times import shares
    from torch.profiler import ProfilerActivity, profile

    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    images = torch.randn(8, 8, 32, 32)
    network(images)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        network(images).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    parts = shares(trace.events())  # type: ignore[no-untyped-call]
    assert all(parts.values()) and sum(parts.values()) < 100
