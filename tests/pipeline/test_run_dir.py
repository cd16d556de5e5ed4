"""Run directories: killed, repeated and fresh runs, and foreign content."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CLASSES, FILES, Compress, Tiny, assert_same, contents, own_model, wait_for, weights
from torch import Tensor

import compress
from compress.distillation.logits_cache import LogitsCache
from compress.pipeline.run_dir import read_results
from compress.recipe.schema import SmallData
from compress.runtime.checksum import seal_table
from compress.runtime.errors import UserError


def dies(recipe: str, out: Path, networks: Path, place: str, calls: int) -> None:
    """Run until SIGKILL ends the process within a call of the function `place`."""
    sys.path.insert(0, str(networks))
    torch.set_num_threads(1)
    module, _, name = place.rpartition(".")
    owner = __import__(module, fromlist=[name])
    real, left = getattr(owner, name), iter(range(calls - 1, -1, -1))

    def deadly(*args: Any, **options: Any) -> Any:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)

    setattr(owner, name, deadly)
    compress.run(recipe, out=out)


def die(tiny: Tiny, out: Path, place: str, calls: int) -> int | None:
    process = multiprocessing.get_context("forkserver").Process(
        target=dies, args=(str(tiny.recipe), out, tiny.root, place, calls)
    )
    process.start()
    process.join(60)
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "calls"),
    [
        ("compress.distillation.kd.kd_loss", 4),  # in the first epoch
        ("compress.distillation.kd.kd_loss", 15),  # in the third
        ("compress.pruning.pruner.allocate", 1),
        ("compress.pruning.pruner.allocate", 2),
        ("compress.pipeline.stages.reestimate_batchnorm", 2),
        ("compress.pipeline.unfinished_run.measure_scores", 3),  # in the test
    ],
)
def test_killed_in_the_middle_of_a_stage(
    tiny: Tiny, finished: Path, tmp_path: Path, place: str, calls: int
) -> None:
    out = tmp_path / "run"
    assert die(tiny, out, place, calls) == -signal.SIGKILL
    assert not (out / "model.pth").exists()
    compress.run(str(tiny.recipe), out=out)
    assert_same(out, finished)


@pytest.mark.slow
def test_killed_again_and_again_while_files_are_written(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    out, kills = tmp_path / "run", 0
    # Every file is synced, and then its folder: odd calls are in the middle of a file.
    while die(tiny, out, "os.fsync", 19) == -signal.SIGKILL:
        kills += 1
        assert kills < 20
    assert kills > 3
    assert_same(out, finished)
    assert {path.name for path in out.iterdir()} == {"run.json", "model.pth", "stages", ".lock"}
    assert not list(out.rglob("*.part")) and not list(out.rglob("*.state"))


@pytest.mark.slow
def test_killed_at_random(
    start: Compress, run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    out, moments = tmp_path / "run", random.Random(3)
    for _ in range(4):
        command = start("run", tiny.recipe, "--out", out)
        time.sleep(moments.uniform(0.1, 0.8))
        command.process.kill()
        command.process.join()
    last = run("run", tiny.recipe, "--out", out)
    assert_same(out, finished)
    results = read_results(out)[1]
    assert last.out.count("done, restored") in range(len(results) + 1)


@pytest.mark.slow
def test_what_was_done_before_is_said_and_its_time_kept(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert die(tiny, out, "compress.distillation.kd.kd_loss", 15) == -signal.SIGKILL
    lines = (out / "stages" / "02-distill.jsonl").read_text()
    spent = json.loads(lines.splitlines()[-1])["seconds"]
    done = run("run", tiny.recipe, "--out", out)
    assert f"teach: done, restored from {out / FILES[0]}" in done.out
    assert "1/7 teach" not in done.out and "resuming after epoch 2 of 3" in done.out
    after = (out / "stages" / "02-distill.jsonl").read_text()
    assert after.startswith(lines) and json.loads(after.splitlines()[-1])["seconds"] > spent


@pytest.mark.slow
def test_a_teacher_is_not_asked_again_after_a_kill(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, asked = tmp_path / "run", list[Path]()
    # By then, both views have been seen.
    assert die(tiny, out, "compress.distillation.kd.kd_loss", 15) == -signal.SIGKILL
    kept = list(out.rglob("view-*.npy"))
    assert len(kept) == 2

    def watched(teacher: Callable[[Tensor], Tensor], folder: Path, *rest: Any) -> LogitsCache:
        return LogitsCache(lambda images: asked.append(folder) or teacher(images), folder, *rest)  # type: ignore[func-returns-value]

    monkeypatch.setattr("compress.pipeline.train_stage.LogitsCache", watched)
    compress.run(str(tiny.recipe), out=out)
    # `finetune 1` asks for other images.
    assert asked and kept[0].parent not in asked
    assert_same(out, finished)


def test_a_stage_whose_weights_are_gone_is_done_again(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / FILES[3]).unlink()
    (out / "model.pth").unlink()
    compress.run(str(tiny.recipe), out=out)
    assert_same(out, finished)


@pytest.mark.slow
def test_another_recipe_in_the_same_directory(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = contents(out)
    refused = run("run", tiny.recipe, "--out", out, "--seed", 1, code=2)
    assert (
        refused.err.count("\n") == 1 and "seed differs" in refused.err and "--fresh" in refused.err
    )
    assert contents(out) == before

    compress.run(str(tiny.recipe), out=out, seed=1, fresh=True)
    assert read_results(out)[0]["seed"] == 1
    assert any(
        not torch.equal(a, b)
        for a, b in zip(weights(out).values(), weights(finished).values(), strict=True)
    )


def test_a_run_that_is_older_than_a_recipe_key_goes_on(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, out := tmp_path / "run")
    manifest = json.loads((out / "run.json").read_text())
    del manifest["recipe"]["minutes"], manifest["recipe"]["stages"][0]["ema"]
    (out / "run.json").write_text(json.dumps(seal_table(manifest)))
    run("run", tiny.recipe, "--out", out)
    manifest["recipe"]["stages"][0]["ema"] = 0.5
    (out / "run.json").write_text(json.dumps(seal_table(manifest)))
    assert "another recipe (stages differs)" in run("run", tiny.recipe, "--out", out, code=2).err


def test_stages_that_few_images_replace_cannot_be_changed_under_way(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    """The recipe's own stages are not those that are run, even where they are of the same kinds."""
    shutil.copytree(finished, out := tmp_path / "run")
    manifest = json.loads((out / "run.json").read_text())
    manifest["recipe"]["small_data"] = asdict(SmallData(scratch=str(tiny.recipe)))
    last = manifest["stages"].pop()
    (out / "run.json").write_text(json.dumps(seal_table(manifest)))
    for name in (last["checkpoint"], "model.pth"):
        (out / name).unlink()
    table = ("[teacher]", f'[small_data]\nscratch = "{tiny.recipe}"\n\n[teacher]')
    changed = tiny.variant("changed.toml", table, ("lr = 0.05\nema", "lr = 0.01\nema"))
    with pytest.raises(UserError, match="another recipe"):
        compress.run(str(changed), out=out)
    compress.run(str(tiny.variant("few.toml", table)), out=out)
    assert_same(out, finished)


def test_a_run_of_another_version_is_named(run: Compress, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, out := tmp_path / "run")
    text = (out / "run.json").read_text()
    manifest = json.loads(text)
    manifest["stages"][0]["colour"] = "blue"
    (out / "run.json").write_text(json.dumps(seal_table(manifest)))
    said = run("stages", out, code=2).err
    assert (
        said.startswith(f"error: {out / 'run.json'}: written by another version")
        and "'colour'" in said
        and "--out" in said
    )


def test_whether_it_is_compiled_does_not_make_it_another_run(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, out := tmp_path / "run")
    manifest = json.loads((out / "run.json").read_text())
    manifest["recipe"]["stages"][0]["compile"] = False
    (out / "run.json").write_text(json.dumps(seal_table(manifest)))
    before = contents(out)
    compress.run(str(tiny.recipe), out=out)
    # A finished run stays as it is.
    assert contents(out) == before

    (out / FILES[-1]).unlink()
    compress.run(str(tiny.recipe), out=out)
    assert_same(out, finished)
    recipes = [read_results(run)[0]["recipe"] for run in (out, finished)]
    assert recipes[0] == recipes[1]
    assert own_model(out / "model.pth").origin["recipe"] == recipes[0]


def test_other_data_in_the_same_directory(tiny: Tiny, tmp_path: Path) -> None:
    data, out = tmp_path / "images", tmp_path / "run"
    shutil.copytree(tiny.data, data)
    recipe = tiny.variant("elsewhere.toml", (str(tiny.data), str(data)))
    assert (
        die(Tiny(tiny.root, data, recipe), out, "compress.distillation.kd.kd_loss", 1)
        == -signal.SIGKILL
    )
    before = contents(out)
    for path in (data / "train" / CLASSES[0]).iterdir():
        shutil.copy(data / "train" / CLASSES[1] / "001.png", path)
    with pytest.raises(UserError, match="the data differs"):
        compress.run(str(recipe), out=out)
    assert contents(out) == before


def test_fresh_only_clears_run_directories(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "drama.txt").write_text("all the world")
    before = contents(tmp_path)
    for fresh in (False, True):
        with pytest.raises(UserError, match="not empty, and not a run directory"):
            compress.run(str(tiny.recipe), out=tmp_path, fresh=fresh)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["a file", "below a file", "no place to write"])
def test_an_out_that_will_not_do(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    out = {"a file": file, "below a file": file / "run", "no place to write": Path("/proc/run")}[
        kind
    ]
    with pytest.raises(UserError, match=r"is a file|cannot be written"):
        compress.run(str(tiny.recipe), out=out)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("below", ["", "100k"])
def test_an_out_that_is_a_link_to_nothing(tiny: Tiny, tmp_path: Path, below: str) -> None:
    (link := tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="is a link to a folder that does not exist"):
        compress.run(str(tiny.recipe), out=link / below)
    assert link.is_symlink() and list(tmp_path.iterdir()) == [link]


def long_recipe(tiny: Tiny) -> Path:
    return tiny.variant(
        "long.toml", ('"teach"\nepochs = 3', '"teach"\nepochs = 3000\ncompile = false')
    )


def test_two_runs_at_once_in_one_directory(
    start: Compress, run: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = start("run", long_recipe(tiny), "--out", out)
    wait_for((out / "stages" / "01-teach.state").exists)
    for flags in ([], ["--fresh"]):
        second = run("run", long_recipe(tiny), "--out", out, *flags, code=2)
        assert "another run is working" in second.err and second.err.count("\n") == 1
    # Between two epochs, the newest state becomes the previous one before there is another.
    assert first.process.is_alive() and list(out.glob("stages/01-teach*.state"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_in_one_line(
    start: Compress, tiny: Tiny, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    command = start("run", long_recipe(tiny), "--out", out)
    wait_for((out / "stages" / "01-teach.state").exists)
    command.send(number)
    assert command.wait() == code
    assert command.err == "stopped; the same command resumes after the last finished epoch\n"
    assert list(out.glob("stages/01-teach*.state")) and not list(out.rglob(".*.part"))
