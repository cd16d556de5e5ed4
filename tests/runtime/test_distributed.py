"""A run of two processes computes what one process computes. The processes are real.

They compute in float64: sums in another order then differ by less than 1e-7, where in float32 a
ReLU that flips would show; one case is in float32 nevertheless. The networks have no dropout, which
differs between processes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import NETWORKS, Compress, Tiny, command_line, wait_for
from torch import Tensor
from torchrun import find_process, finish, finish_both, start_both
from torchrun import start as torchrun

import compress
from compress.runtime import distributed

# Stops the process of one rank in a training step, so that the test can kill a process just then.
# The file `gate` beside the networks names the rank, and a file that must exist first.
GATE = """
import os
import pathlib
import time


class Gate(nn.Module):
    def forward(self, images):
        gate = pathlib.Path(__file__).with_name("gate")
        if self.training and gate.exists():
            rank, file = gate.read_text().split(maxsplit=1)
            if os.environ.get("RANK") == rank and pathlib.Path(file).exists():
                gate.with_name("at-gate").touch()
                while gate.exists():
                    time.sleep(0.01)
        return images
"""

# Stages that train in different ways: soft targets, parameters and batch norms of an objective,
# phases in which parts of the network are frozen, every optimizer.
CASES: dict[str, dict[str, Any]] = {
    "mixed": {
        "method": "kd",
        "mixup": 0.2,
        "cutmix": 1.0,
        "erase_prob": 0.5,
        "views": 1,
        "epochs": 2,
    },
    "muon": {"method": "dkd", "optimizer": "muon", "ema": 0.9},
    "frozen": {"method": "kd", "freeze": "backbone"},
    "stagewise": {"method": "stagewise"},
    "fsp": {"method": "fsp"},
    "fitnets": {"method": "fitnets", "optimizer": "adamw", "lr": 1e-3},
    "attention": {"method": "attention", "beta": 10.0},
    "overhaul": {"method": "overhaul"},
    "float32": {"method": "labels"},
}
TO_FLOAT32 = Tensor.float


@pytest.fixture(scope="module")
def still(tiny: Tiny) -> Tiny:
    """Networks without dropout, batches that two processes cannot share evenly, short stages."""
    networks = NETWORKS.replace("        nn.Dropout(0.1),\n", "")
    networks = networks.replace("        _block(3,", "        Gate(),\n        _block(3,")
    (tiny.root / "stillnets.py").write_text(networks.replace("nn\n", f"nn\n{GATE}", 1))
    changes = (
        ("tinynets", "stillnets"),
        ("batch_size = 32", "batch_size = 33"),
        ("epochs = 3", "epochs = 2\ncompile = false"),
    )
    return replace(tiny, recipe=tiny.variant("still.toml", *changes))


@pytest.fixture
def gate(still: Tiny) -> Iterator[Path]:
    """The file that stops a process of a run; see `GATE`."""
    gate = still.root / "gate"
    (still.root / "at-gate").unlink(missing_ok=True)
    yield gate
    gate.unlink(missing_ok=True)


def compute_in_float64(patch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float64)
    patch.setattr(Tensor, "float", Tensor.double)
    # No bfloat16.
    patch.setattr(torch.cpu, "get_capabilities", dict)


@contextmanager
def computing_in_float32() -> Iterator[None]:
    torch.set_default_dtype(torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", TO_FLOAT32)
        yield
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    compute_in_float64(monkeypatch)
    yield
    torch.set_default_dtype(torch.float32)


def train_cases(recipe: str, out: Path) -> None:
    """Train a student in each of the cases; every process saves its own weights."""
    from compress.distillation import logits_cache
    from compress.distillation.method import Teacher
    from compress.models.build import build
    from compress.pipeline.context import StageContext
    from compress.pipeline.events import RunEvents
    from compress.pipeline.plan import make_plan
    from compress.pipeline.stages import distill
    from compress.recipe.load import load_recipe
    from compress.recipe.stages import Train

    with distributed.process_group(), pytest.MonkeyPatch.context() as patch:
        # Two blocks of logits and more in a view of six batches.
        patch.setattr(logits_cache, "BLOCK", 2)
        plan = make_plan(load_recipe(recipe), "cpu")
        (step,) = [step for step in plan.steps if step.kind == "distill"]
        torch.manual_seed(1)
        teacher = Teacher(build(plan.recipe.teacher, 4), plan.data.image_size, 1.0)
        for name, keys in CASES.items():
            stage = Train(**({"kind": "distill", "epochs": 1, "lr": 0.05} | keys))
            ctx = StageContext(
                plan,
                replace(step, stage=stage, image_size=plan.data.image_size),
                state=out / f"{name}.state",
                logits_dir=out / "logits_cache",
                events=RunEvents(),
                teacher=teacher,
            )
            with computing_in_float32() if name == "float32" else nullcontext():
                student = distill(None, ctx).model
            torch.save(student.state_dict(), out / f"{name}-{distributed.rank()}.pt")


def command_in_float64(*arguments: Any) -> None:
    """Stand in for `command_line`."""
    compute_in_float64(pytest.MonkeyPatch())
    command_line(*arguments)


def train_in_float64(
    words: list[str], folder: Path, networks: Path, screens: object, env: dict[str, str]
) -> None:
    """Stand in for `command_line`, and train the cases of the recipe `words[0]` in `words[1]`."""
    compute_in_float64(pytest.MonkeyPatch())
    os.environ.update(env)
    sys.path.insert(0, str(networks))
    torch.set_num_threads(1)
    train_cases(words[0], Path(words[1]))


def wait_at_gate(folder: Path, ended: Callable[[], bool]) -> None:
    at_gate = folder / "at-gate"
    wait_for(lambda: at_gate.exists() or ended(), seconds=120)
    assert at_gate.exists()


def load_stages(run: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of every stage's weights file."""
    return {
        file.stem: torch.load(file, weights_only=True)["state_dict"]
        for file in sorted(run.glob("stages/*.pth"))
    }


def max_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference of two networks' tensors, relative to each tensor's maximum."""
    assert {k: t.shape for k, t in one.items()} == {k: t.shape for k, t in other.items()}
    return max(
        float((t - other[k]).abs().max() / t.abs().max().clamp_min(1e-3)) for k, t in one.items()
    )


def assert_equal_runs(one: Path, other: Path, tolerance: float) -> None:
    """Compare the weights, results and metrics of two runs."""
    ours, theirs = load_stages(one), load_stages(other)
    assert len(ours) == 6 and ours.keys() == theirs.keys()
    assert max(max_difference(ours[stage], theirs[stage]) for stage in ours) <= tolerance
    results = [json.loads((run / "run.json").read_text())["stages"] for run in (one, other)]
    for a, b in zip(*results, strict=True):
        assert a | {"seconds": 0, "bytes": 0} == b | {"seconds": 0, "bytes": 0}
    metrics = sorted(path.name for path in one.glob("stages/*.jsonl"))
    assert len(metrics) == 4
    for name in metrics:
        lines = [(run / "stages" / name).read_text().splitlines() for run in (one, other)]
        for a, b in zip(*(map(json.loads, each) for each in lines), strict=True):
            near = pytest.approx(b["loss"], rel=max(tolerance, 1e-9))
            assert a["loss"] == near and a["val"] == b["val"]


@pytest.mark.slow
def test_two_processes_train_as_one_with_every_objective(
    start: Compress, still: Tiny, tmp_path: Path, float64: None
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    one.mkdir()
    both = start_both(start, still.recipe, two, target=train_in_float64)
    train_cases(str(still.recipe), one)
    assert [each.wait() for each in both] == [0, 0]
    for name in CASES:
        alone, first, second = (
            torch.load(f) for f in (one / f"{name}-0.pt", *sorted(two.glob(f"{name}-?.pt")))
        )
        assert max_difference(first, second) == 0
        assert max_difference(alone, first) < (1e-3 if name == "float32" else 1e-7), name
    logits = [
        [np.load(file) for file in sorted(run.glob("logits_cache/*/*.npy"))] for run in (one, two)
    ]
    assert len(logits[0]) == len(logits[1]) > 1
    assert all(np.array_equal(a, b) for a, b in zip(*logits, strict=True))


@pytest.mark.slow
def test_a_distributed_run_equals_that_of_one_process_even_if_killed(
    start: Compress,
    still: Tiny,
    tmp_path: Path,
    gate: Path,
    float64: None,
) -> None:
    alone, complete, killed, alone_after = (
        tmp_path / name for name in ("alone", "complete", "killed", "alone-after")
    )
    both = start_both(start, "run", still.recipe, "--out", complete, target=command_in_float64)
    compress.run(str(still.recipe), out=alone)
    out, _ = finish_both(both)
    # Only the main process prints.
    assert out.count("6/7 finetune 2") == 1 and out.count(f"{complete}/model.pth") == 1
    assert_equal_runs(alone, complete, 1e-6)

    # The main process, which torchrun started, is killed in the second epoch of distilling.
    gate.write_text(f"0 {killed / 'stages' / '02-distill.jsonl'}")
    started = torchrun(still.root, __file__, "run", still.recipe, "--out", killed)
    wait_at_gate(still.root, lambda: started.poll() is not None)
    os.kill(find_process(started.pid, 0), signal.SIGKILL)
    _, err = finish(started, code=1)
    gate.unlink()
    assert err.count("another process of this run is gone") == 1
    assert err.count(distributed.RESUME_HINT) == 1
    assert list(load_stages(killed)) == ["01-teach"]

    shutil.copytree(killed, alone_after)
    both = start_both(start, "run", still.recipe, "--out", killed, target=command_in_float64)
    out, _ = finish_both(both)
    assert "teach: done" in out and "resuming after epoch 1 of 2" in out
    assert_equal_runs(complete, killed, 0)
    compress.run(str(still.recipe), out=alone_after)
    assert_equal_runs(complete, alone_after, 1e-6)


@pytest.mark.slow
def test_a_process_lost_in_a_training_step_is_reported_in_one_line(
    start: Compress, still: Tiny, tmp_path: Path, gate: Path
) -> None:
    gate.write_text("0 .")
    main, other = start_both(start, "run", still.recipe, "--out", tmp_path / "run")
    wait_at_gate(still.root, lambda: main.process.exitcode is not None)
    other.send(signal.SIGKILL)
    # torchrun does so when it loses a process.
    main.send(signal.SIGTERM)
    assert main.wait() == 2
    (line,) = [line for line in main.err.splitlines() if line.startswith("error: ")]
    assert "another process of this run is gone" in line
    assert line.endswith(distributed.RESUME_HINT)


@pytest.mark.slow
def test_a_batch_too_small_for_the_processes_is_reported_once(
    start: Compress, still: Tiny, tmp_path: Path
) -> None:
    recipe = still.variant("single.toml", ("batch_size = 33", "batch_size = 1"))
    out = tmp_path / "run"
    _, err = finish_both(start_both(start, "run", recipe, "--out", out), code=2)
    assert err.count("error: 2 processes share a batch of 1 images") == 1
    assert not out.exists()


if __name__ == "__main__":
    from compress.cli.main import main

    compute_in_float64(pytest.MonkeyPatch())
    main(prog_name="compress")
