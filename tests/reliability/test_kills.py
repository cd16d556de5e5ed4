"""Kills: runs that are killed at many moments, and what a killed or a second process leaves."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FILES, NAMES, Compress, Interrupted, InterruptIn, Tiny, assert_same

import compress
from compress.experiments.experiment import run_experiment
from compress.experiments.sweep import sweep
from compress.pipeline.manifest import read_results
from compress.pipeline.run_dir import locked
from compress.recipe.load import load_recipe
from compress.runtime.checksum import seal_table
from compress.runtime.errors import UserError

# Functions that a run calls throughout: training, pruning, scoring, and every kind of write.
PLACES = (
    "compress.distillation.kd.kd_loss",
    "compress.training.trainer.write_state",
    "compress.training.trainer.write_text",
    "compress.models.checkpoint.write_tensors",
    "compress.pipeline.run_dir.write_sealed",
    "compress.pipeline.unfinished_run.measure_scores",
    "compress.pruning.pruner.allocate",
    "os.fsync",
    "pathlib.Path.replace",
)


BUDGETS = ("6k", "3k")


def work(kind: str, file: str, out: Path) -> None:
    """Run a recipe, sweep it, or run an experiment."""
    if kind == "run":
        compress.run(file, out=out)
    elif kind == "sweep":
        sweep(load_recipe(file, {"max_images": 64}), BUDGETS, out=out)
    else:
        run_experiment(file, out=out)


def work_until_killed(kind: str, file: str, out: Path, networks: Path, moment: int) -> None:
    """Work until SIGKILL ends the process at a call of one of `PLACES`, counted together."""
    sys.path.insert(0, str(networks))
    torch.set_num_threads(1)
    left = iter(range(moment, -1, -1))
    for place in PLACES:
        owner_name, _, name = place.rpartition(".")
        owner: Any = Path if owner_name.endswith("Path") else sys.modules.get(owner_name)
        owner = owner or __import__(owner_name, fromlist=[name])
        setattr(owner, name, _deadly(getattr(owner, name), left))
    work(kind, file, out)


def _deadly(real: Any, left: Any) -> Any:
    def call(*arguments: Any, **options: Any) -> Any:
        if next(left, 1) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)

    return call


def kill_often(kind: str, file: Path, out: Path, most: int, calls: tuple[int, int]) -> int:
    """Kill the work at random moments until it is done; return the number of kills.

    Args:
        most: number of kills after which nothing kills it any more.
        calls: of `PLACES`, after which it is killed: the fewest, and more than the most.
    """
    moments, kills = random.Random(0), 0
    context = multiprocessing.get_context("forkserver")
    while kills < most:
        arguments = (kind, str(file), out, file.parent, moments.randrange(*calls))
        process = context.Process(target=work_until_killed, args=arguments)
        process.start()
        process.join(120)
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0
            break
        kills += 1
    work(kind, str(file), out)
    return kills


@pytest.mark.slow
def test_killed_at_many_moments_it_ends_the_same(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert kill_often("run", tiny.recipe, out, 12, (10, 60)) > 3
    assert_same(out, finished)
    assert {path.name for path in out.iterdir()} == {"run.json", "model.pth", "stages", ".lock"}


def read_table(file: Path) -> list[list[str]]:
    """Return the cells of a table in Markdown, without the seconds."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row[: len(row) - (cells[0][-1] == "seconds")] for row in cells]


GRID = """
recipe = "brief.toml"
keys.max_images = 64
[grid]
distill.alpha = [0.0, 0.9]
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "table"), [("sweep", "sweep.md"), ("experiment", "table.md")])
def test_many_runs_killed_at_many_moments_end_the_same(
    kind: str, table: str, tiny: Tiny, tmp_path: Path
) -> None:
    brief = ("epochs = 3", "epochs = 1"), ("epochs = 2", "epochs = 1")
    file = tiny.variant("brief.toml", *brief)
    if kind == "experiment":
        file = tiny.root / "grid.toml"
        file.write_text(GRID)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    work(kind, str(file), straight)
    assert kill_often(kind, file, killed, 5, (10, 60)) > 2
    assert read_table(killed / table) == read_table(straight / table)
    names = {each.parent.name for each in straight.glob("*/run.json")}
    assert len(names) == 2 and {each.parent.name for each in killed.glob("*/run.json")} == names
    for name in names:
        assert_same(killed / name, straight / name)
    assert not list(killed.rglob("*.part")) and not list(killed.rglob("*.state"))


@pytest.mark.slow
def test_from_a_stage_on_it_is_done_again(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    """With the same keys it comes to the same; other keys are refused without --from."""
    out = tmp_path / "run"
    quick = tiny.variant("from.toml", ("epochs = 3", "epochs = 1"), ("epochs = 2", "epochs = 1"))
    first = compress.run(str(quick), out=out).results
    manifest = json.loads((out / "run.json").read_text())
    manifest |= {"stage_seconds": [1.0] * 6, "least_seconds": [0.5] * 6}
    (out / "run.json").write_text(json.dumps(seal_table(manifest)))
    lower = quick.with_name("lower.toml")
    lower.write_text(quick.read_text().replace("lr = 0.05\nema", "lr = 0.01\nema"))
    with pytest.raises(UserError, match=r"stages differs.*--from"):
        compress.run(str(lower), out=out)
    with pytest.raises(UserError, match=r"--from 'finetune 3'.*did you mean"):
        compress.run(str(lower), out=out, redo_from="finetune 3")
    said = run("run", lower, "--out", out, "--from", "finetune-2").out
    assert f"{NAMES[4]}: done, restored" in said and f"{NAMES[5]}: done" not in said
    again = read_results(out)
    for new, old in zip(again[1][:5], first, strict=False):
        assert (new.val, new.test, new.seconds) == (old.val, old.test, old.seconds)
    assert again[0]["recipe"]["stages"][-1]["lr"] == 0.01
    assert (out / FILES[5]).is_file() and again[0]["status"] == "done"
    # Other epochs take another time.
    assert "stage_seconds" not in again[0] and "least_seconds" not in again[0]


@pytest.mark.slow
def test_from_a_stage_that_is_not_reached_yet_keeps_finished_epochs(
    tiny: Tiny, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        compress.run(str(tiny.recipe), out=out, callbacks=InterruptIn("teach", 2))
    with pytest.raises(Interrupted):
        compress.run(
            str(tiny.recipe), out=out, callbacks=InterruptIn("teach", 1), redo_from="finetune 1"
        )
    lines = (out / FILES[0]).with_suffix(".jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


@pytest.mark.slow
def test_a_stage_that_is_not_done_may_get_another_rate(tiny: Tiny, tmp_path: Path) -> None:
    """The stages before it are kept, and it starts again."""
    changes = (("epochs = 3", "epochs = 1"), ("epochs = 2", "epochs = 1"))
    hot = tiny.variant("hot2.toml", *changes, ("lr = 0.05\nviews", "lr = 1e30\nviews"))
    cool = tiny.variant("cool.toml", *changes)
    with pytest.raises(UserError, match="finetune 1: the loss is not finite"):
        compress.run(str(hot), out=tmp_path / "run")
    kept = read_results(tmp_path / "run")[1]
    result = compress.run(str(cool), out=tmp_path / "run")
    assert [each.name for each in kept] == NAMES[:3]
    assert [each.seconds for each in result.results[:3]] == [each.seconds for each in kept]
    compress.run(str(cool), out=tmp_path / "straight")
    assert_same(tmp_path / "run", tmp_path / "straight")


def test_a_lock_that_a_killed_process_left_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("4711")
    with locked(tmp_path), pytest.raises(UserError, match="another run"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass
