"""Several processes and one: what a run comes to is the same. The processes are real, started by torchrun.

They compute in float64: a sum in another order then stays below 1e-7, where in float32 a ReLU that flips shows; one
case is in float32 for all that. The networks have no dropout, which differs from process to process.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from compress.distill import targets
from tiny import NETWORKS, Tiny, wait_for
from torch import Tensor

import compress
from compress.models.build import build
from compress.pipeline.context import Guide, StageContext
from compress.pipeline.plan import make_plan
from compress.pipeline.stages import distill_stage
from compress.recipe import load as recipes
from compress.recipe.schema import Train
from compress.runtime import distributed
from compress.training.events import Events

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

# slow to answer: torchrun sees that a process is gone before the other one does
SLOW = """
import pathlib
import time


class Slow(nn.Module):
    def forward(self, images):
        if self.training:
            pathlib.Path("in-a-step").touch()
            time.sleep(3)
        return images


def slow(num_classes):
    return nn.Sequential(Slow(), _net(24, num_classes))
"""

AGAIN = "the same command goes on after the last finished epoch"

# what learns differently: soft targets, batch norms and parameters of the objective, phases in which parts rest
CASES: dict[str, dict[str, Any]] = {
    "mixed": {"method": "kd", "mixup": 0.2, "cutmix": 1.0, "erase": 0.5, "views": 1, "epochs": 2},
    "muon": {"method": "dkd", "optimizer": "muon", "ema": 0.9},
    "frozen": {"method": "kd", "freeze": "backbone"},
    "stagewise": {"method": "stagewise"},
    "fsp": {"method": "fsp"},
    "fitnets": {"method": "fitnets", "optimizer": "adamw", "lr": 1e-3},
    "attention": {"method": "attention", "beta": 10.0},
    "overhaul": {"method": "overhaul"},
    "float32": {"method": "labels"},
}
SINGLE = Tensor.float


@pytest.fixture(scope="module")
def still(tiny: Tiny) -> Tiny:
    """Networks without dropout, batches that two cannot share evenly, and short stages."""
    (tiny.root / "stillnets.py").write_text(
        NETWORKS.replace("        nn.Dropout(0.1),\n", "") + SLOW
    )
    changes = (
        ("tinynets", "stillnets"),
        ("batch = 32", "batch = 33"),
        ("epochs = 3", "epochs = 2"),
    )
    return replace(tiny, recipe=tiny.variant("still.toml", *changes))


def compute_in_float64(patch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float64)
    patch.setattr(Tensor, "float", Tensor.double)
    patch.setattr(torch.cpu, "get_capabilities", dict)  # no bfloat16


@contextmanager
def computing_in_float32() -> Iterator[None]:
    torch.set_default_dtype(torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", SINGLE)
        yield
    torch.set_default_dtype(torch.float64)


@pytest.fixture(autouse=True)
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    compute_in_float64(monkeypatch)
    yield
    torch.set_default_dtype(torch.float32)


def start(tiny: Tiny, *words: object) -> subprocess.Popen[str]:
    """torchrun with these words, in a place where the networks are."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tiny.root), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    command = [*TORCHRUN, *map(str, words)]
    return subprocess.Popen(
        command,
        env=env,
        cwd=tiny.root,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(started: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    try:
        out, err = started.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        raise
    assert started.returncode == code, out + err
    return out, err


def learn(recipe: str, out: Path) -> None:
    """Train a student in every one of the cases, and keep its weights, each process its own."""
    with distributed.process_group(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "BLOCK", 2)  # of six batches
        plan = make_plan(recipes.load_recipe(recipe), "cpu")
        torch.manual_seed(1)
        teacher = build(plan.recipe.teacher, 4)  # any teacher will do
        for name, keys in CASES.items():
            stage = Train(**({"kind": "distill", "epochs": 1, "lr": 0.05, "mix": 1.0} | keys))
            state = out / f"{name}.state"
            ctx = StageContext(
                plan.recipe,
                plan.data,
                plan.device,
                Events(),
                state,
                out / "answers",
                Guide(teacher, 16),
            )
            with computing_in_float32() if name == "float32" else nullcontext():
                student = distill_stage(None, stage, ctx)
            torch.save(student.state_dict(), out / f"{name}-{distributed.rank()}.pt")


def weights(run: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of every stage's file."""
    return {
        file.stem: torch.load(file, weights_only=True)["state_dict"]
        for file in sorted(run.glob("stages/*.pth"))
    }


def differ(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two networks' tensors, each by its own largest value."""
    assert {k: t.shape for k, t in one.items()} == {k: t.shape for k, t in other.items()}
    return max(
        float((t - other[k]).abs().max() / t.abs().max().clamp_min(1e-3)) for k, t in one.items()
    )


def same(one: Path, other: Path, tolerance: float) -> None:
    """See that two runs came to the same."""
    ours, theirs = weights(one), weights(other)
    assert len(ours) == 6 and ours.keys() == theirs.keys()
    assert max(differ(ours[stage], theirs[stage]) for stage in ours) <= tolerance
    results = [json.loads((run / "run.json").read_text())["stages"] for run in (one, other)]
    for a, b in zip(*results, strict=True):
        assert a | {"seconds": 0, "bytes": 0} == b | {"seconds": 0, "bytes": 0}
    for file in one.glob("stages/*.jsonl"):
        for a, b in zip(
            *((run / "stages" / file.name).read_text().splitlines() for run in (one, other)),
            strict=True,
        ):
            a, b = json.loads(a), json.loads(b)
            assert (
                a["loss"] == pytest.approx(b["loss"], rel=max(tolerance, 1e-9))
                and a["val"] == b["val"]
            )


def test_two_processes_learn_what_one_learns_whatever_the_objective(
    still: Tiny, tmp_path: Path
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    two.mkdir()
    one.mkdir()
    started = start(still, __file__, "learn", still.recipe, two)
    learn(str(still.recipe), one)
    finish(started)
    for name in CASES:
        alone, first, second = (
            torch.load(f) for f in (one / f"{name}-0.pt", *sorted(two.glob(f"{name}-?.pt")))
        )
        assert differ(first, second) == 0
        assert differ(alone, first) < (1e-3 if name == "float32" else 1e-7), name
    answers = [
        [np.load(file) for file in sorted(run.glob("answers/*/*.npy"))] for run in (one, two)
    ]
    assert len(answers[0]) == len(answers[1]) > 1
    assert all(np.array_equal(a, b) for a, b in zip(*answers, strict=True))


def test_a_run_of_two_processes_is_that_of_one_and_a_kill_does_not_change_it(
    still: Tiny, tmp_path: Path
) -> None:
    alone, whole, killed, alone_after = (
        tmp_path / name for name in ("alone", "whole", "killed", "alone-after")
    )
    started = start(still, __file__, "run", still.recipe, "--out", whole)
    compress.run(str(still.recipe), out=alone)
    out, _ = finish(started)
    assert (
        out.count("6/7 finetune 2") == 1 and out.count(f"{whole}/model.pth") == 1
    )  # one of them speaks
    same(alone, whole, 1e-6)

    started = start(still, __file__, "run", still.recipe, "--out", killed)
    learning = killed / "stages" / "02-distill.jsonl"
    while not learning.is_file() and started.poll() is None:
        time.sleep(0.02)
    os.kill(child(started.pid, "0"), signal.SIGKILL)  # the one that writes
    _, err = finish(started, code=1)
    assert err.count("another process of this run is gone") == 1 and err.count(AGAIN) == 1
    assert len(weights(killed)) < 6

    shutil.copytree(killed, alone_after)
    out, _ = finish(start(still, __file__, "run", still.recipe, "--out", killed))
    assert "teach: done before" in out and "going on after epoch 1 of 2" in out
    same(whole, killed, 0)
    compress.run(str(still.recipe), out=alone_after)
    same(whole, alone_after, 1e-6)


def test_a_process_lost_in_the_midst_of_a_step_is_told_in_one_line(
    still: Tiny, tmp_path: Path
) -> None:
    begun = still.root / "in-a-step"
    begun.unlink(missing_ok=True)
    recipe = still.variant("slow.toml", ("stillnets:teacher", "stillnets:slow"))
    started = start(still, "-m", "compress", "run", recipe, "--out", tmp_path / "run")
    wait_for(lambda: begun.exists() or started.poll() is not None, seconds=120)
    os.kill(child(started.pid, "1"), signal.SIGKILL)
    _, err = finish(started, code=1)
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "another process of this run is gone" in line and line.endswith(AGAIN)


@pytest.mark.parametrize(("gpus", "parts"), [(True, {"cpu:gloo", "cuda:nccl"}), (False, {"gloo"})])
def test_counts_and_words_go_over_cpus_and_gradients_over_gpus(
    monkeypatch: pytest.MonkeyPatch, gpus: bool, parts: set[str]
) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: True)
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(None, 0, 2)]))
    asked: list[str] = []
    monkeypatch.setattr(
        dist, "init_process_group", lambda backend, **_: asked.append(backend) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError), distributed.process_group():
        pass
    assert set(asked[0].split(",")) == parts


def test_a_batch_that_is_too_small_for_all_of_them_is_refused_once(
    still: Tiny, tmp_path: Path
) -> None:
    recipe = still.variant("single.toml", ("batch = 33", "batch = 1"))
    _, err = finish(
        start(still, "-m", "compress", "run", recipe, "--out", tmp_path / "run"), code=1
    )
    assert (
        err.count("error: 2 processes share a batch of 1 images: start fewer, or raise batch") == 1
    )
    assert not (tmp_path / "run").exists()


def child(torchrun: int, rank: str) -> int:
    """The process that torchrun started as this rank."""
    for process in map(int, Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()):
        if f"\0RANK={rank}\0".encode() in Path(f"/proc/{process}/environ").read_bytes():
            return process
    raise ProcessLookupError(rank)


if __name__ == "__main__":
    compute_in_float64(pytest.MonkeyPatch())
    if sys.argv[1] == "learn":
        learn(sys.argv[2], Path(sys.argv[3]))
    else:
        from compress.cli.main import main

        main(prog_name="compress")
