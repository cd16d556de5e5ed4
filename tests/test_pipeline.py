"""Whole runs through the command line, in processes of their own: what they leave, and what becomes of them when
they are killed, started twice, or asked for what cannot be had."""

from __future__ import annotations

import dataclasses
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
from tiny import CLASSES, Compress, Tiny, write_folder

import compress
from compress import checkpoint
from compress.budget import parse
from compress.checkpoint import Checkpoint
from compress.data.open import open_data
from compress.errors import UserError
from compress.models.build import own_builder
from compress.models.network import Network
from compress.plan import make_plan
from compress.recipe import load
from compress.rundir import read_records
from compress.summary import count

NAMES = ["teach", "distill", "prune 1", "finetune 1", "prune 2", "finetune 2"]
FILES = [f"stages/{n:02}-{name.replace(' ', '-')}.pth" for n, name in enumerate(NAMES, 1)]


def weights(run_or_file: Path) -> dict[str, torch.Tensor]:
    file = run_or_file if run_or_file.is_file() else run_or_file / "model.pth"
    return dict(own_model(file).model.state_dict())


def own_model(file: Path) -> Checkpoint:
    return checkpoint.load(file, own_builder(torch.load(file, weights_only=True)["network"]["name"]))


def assert_same(run: Path, other: Path) -> None:
    a, b = weights(run), weights(other)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    ours, theirs = (
        [dataclasses.replace(r, seconds=0, bytes=0) for r in read_records(path)[1]] for path in (run, other)
    )
    assert ours == theirs


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for(what: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def test_a_run_from_end_to_end(run: Compress, tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    done = run("run", tiny.recipe, "--out", out, "--device", "cpu")
    assert_same(out, finished)
    assert "\x1b" not in done.out and done.err == ""
    for words in (*NAMES, "Total params", "epoch   1/3", "2,988 parameters", f"\n{out / 'model.pth'}\n"):
        assert words in done.out

    manifest = json.loads((out / "run.json").read_text())
    assert manifest["status"] == "done" and manifest["seed"] == 0 and manifest["budget"] == {"params": 3000}
    assert manifest["data"] == {
        "name": f"folder:{tiny.data}",
        "checksum": open_data(f"folder:{tiny.data}", size=16).checksum,
    }
    assert manifest["versions"]["torch"] == torch.__version__.partition("+")[0] and "torchinfo" in manifest["versions"]
    assert "thread" in manifest["device"]
    assert (
        manifest["recipe"]["stages"][1]["scale"] == 0.5 and manifest["recipe"]["student"]["name"] == "tinynets:student"
    )

    for entry, name, file in zip(manifest["stages"], NAMES, FILES, strict=True):
        kept = own_model(out / file)
        counted = count(kept.model, kept.input_size)
        assert (entry["name"], entry["checkpoint"]) == (name, file)
        assert (entry["params"], entry["macs"]) == (counted.params, counted.macs)
        assert 0 <= entry["val"] <= 1 and 0 <= entry["test"] <= 1 and entry["seconds"] >= 0
        assert kept.input_size == (3, entry["size"], entry["size"]) and kept.classes == CLASSES
        lines = out / Path(file).with_suffix(".jsonl")
        epochs = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        assert [line["epoch"] for line in epochs] == list(range(1, entry["epochs"] + 1))
        assert bool(epochs) == (entry["kind"] != "prune")
    assert [entry["size"] for entry in manifest["stages"]] == [16, 8, 8, 16, 16, 16]

    final = own_model(out / "model.pth")
    assert 2700 <= count(final.model, (3, 16, 16)).params <= 3000
    assert final.origin["stages"][-1]["test"] == manifest["stages"][-1]["test"] > 0.6
    assert final.origin["recipe"] == manifest["recipe"]
    assert {path.name for path in out.iterdir()} == {"run.json", "model.pth", "stages", ".lock"}
    assert not list(out.rglob("*.state"))


def test_again_when_done_shows_the_table_and_does_nothing(run: Compress, tiny: Tiny, finished: Path) -> None:
    before = contents(finished)
    done = run("run", tiny.recipe, "--out", finished)
    assert contents(finished) == before
    assert "finetune 2" in done.out and "epoch" not in done.out.replace("epochs", "") and "model.pth" in done.out


def dies(recipe: str, out: Path, networks: Path, place: str, calls: int) -> None:
    """A run that SIGKILL ends at a call of the function `place`: in it, not before or after."""
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


@pytest.mark.parametrize(
    ("place", "calls"),
    [
        ("compress.distill.kd.kd_loss", 4),  # in the first epoch
        ("compress.distill.kd.kd_loss", 15),  # in the third
        ("compress.pruning.pruner.widths", 1),
        ("compress.pruning.pruner.widths", 2),
        ("compress.stages.reestimate_batchnorm", 2),
        ("compress.pipeline.accuracy", 3),  # in the test
    ],
)
def test_killed_in_the_middle_of_a_stage(tiny: Tiny, finished: Path, tmp_path: Path, place: str, calls: int) -> None:
    out = tmp_path / "run"
    assert die(tiny, out, place, calls) == -signal.SIGKILL
    assert not (out / "model.pth").exists()
    compress.run(str(tiny.recipe), out=out)
    assert_same(out, finished)


def test_killed_again_and_again_while_files_are_written(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    out, kills = tmp_path / "run", 0
    while die(tiny, out, "os.fsync", 6) == -signal.SIGKILL:
        kills += 1
        assert list(out.rglob(".*.part")), "it should have been in the middle of a file"
        assert kills < 20
    assert kills > 5
    assert_same(out, finished)
    assert {path.name for path in out.iterdir()} == {"run.json", "model.pth", "stages", ".lock"}
    assert not list(out.rglob("*.part")) and not list(out.rglob("*.state"))


def test_killed_at_random(start: Compress, run: Compress, tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    out, moments = tmp_path / "run", random.Random(3)
    for _ in range(4):
        command = start("run", tiny.recipe, "--out", out)
        time.sleep(moments.uniform(0.1, 0.8))
        command.process.kill()
        command.process.join()
    last = run("run", tiny.recipe, "--out", out)
    assert_same(out, finished)
    records = read_records(out)[1]
    assert last.out.count("done before") in range(len(records) + 1)


def test_what_was_done_before_is_said_and_its_time_kept(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert die(tiny, out, "compress.distill.kd.kd_loss", 15) == -signal.SIGKILL
    lines = (out / "stages" / "02-distill.jsonl").read_text()
    spent = json.loads(lines.splitlines()[-1])["seconds"]
    done = run("run", tiny.recipe, "--out", out)
    assert f"teach: done before, taken from {out / FILES[0]}" in done.out
    assert "1/7 teach" not in done.out and "going on after epoch 2 of 3" in done.out
    after = (out / "stages" / "02-distill.jsonl").read_text()
    assert after.startswith(lines) and json.loads(after.splitlines()[-1])["seconds"] > spent


def test_a_stage_whose_weights_are_gone_is_done_again(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / FILES[3]).unlink()
    (out / "model.pth").unlink()
    compress.run(str(tiny.recipe), out=out)
    assert_same(out, finished)


def test_another_recipe_in_the_same_directory(run: Compress, tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = contents(out)
    refused = run("run", tiny.recipe, "--out", out, "--seed", 1, code=2)
    assert refused.err.count("\n") == 1 and "seed differs" in refused.err and "--fresh" in refused.err
    assert contents(out) == before

    compress.run(str(tiny.recipe), out=out, seed=1, fresh=True)
    assert read_records(out)[0]["seed"] == 1
    assert any(not torch.equal(a, b) for a, b in zip(weights(out).values(), weights(finished).values(), strict=True))


def test_a_run_that_is_older_than_a_recipe_key_goes_on(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished, out := tmp_path / "run")
    manifest = json.loads((out / "run.json").read_text())
    del manifest["recipe"]["minutes"], manifest["recipe"]["stages"][0]["ema"]
    (out / "run.json").write_text(json.dumps(manifest))
    run("run", tiny.recipe, "--out", out)
    manifest["recipe"]["stages"][0]["ema"] = 0.5
    (out / "run.json").write_text(json.dumps(manifest))
    assert "another recipe (stages differs)" in run("run", tiny.recipe, "--out", out, code=2).err


def test_other_data_in_the_same_directory(tiny: Tiny, tmp_path: Path) -> None:
    data, out = tmp_path / "images", tmp_path / "run"
    shutil.copytree(tiny.data, data)
    recipe = tiny.variant("elsewhere.toml", (str(tiny.data), str(data)))
    assert die(Tiny(tiny.root, data, recipe), out, "compress.distill.kd.kd_loss", 1) == -signal.SIGKILL
    before = contents(out)
    for path in (data / "train" / CLASSES[0]).iterdir():
        shutil.copy(data / "train" / CLASSES[1] / "001.png", path)
    with pytest.raises(UserError, match="the data is not what this run began with"):
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


BAD_FLAGS: list[tuple[list[str], str]] = [
    (["--budget", "many"], "'many'"),
    (["--budget", "0"], "budget '0'"),
    (["--budget", "500k"], "nothing to prune"),
    (["--budget", "50"], "out of reach, the least for tinynets:student is"),
    (["--student", "resnet81"], "did you mean 'resnet1"),
    (["--student", "nowhere:net"], "nowhere"),
    (["--stem", "small"], "your own"),
    (["--teacher", "missing.pth"], "missing.pth: no such file"),
    (["--data", "fashion_mnist"], "did you mean 'fashion-mnist'"),
    (["--data", "folder:nowhere"], "there is no directory nowhere"),
    (["--limit", "0"], "limit"),
    (["--share", "2"], "share"),
    (["--seed", "-1"], "seed"),
    (["--minutes", "0"], "minutes: must be greater than 0, not 0"),
    (["--minutes", "-1"], "minutes: must be greater than 0, not -1"),
    (["--minutes", "nan"], "minutes: must be a finite number, not nan"),
    *([] if torch.cuda.is_available() else [(["--device", "cuda"], "no GPU here")]),
]


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_what_cannot_be_had_is_one_line(
    run: Compress, tiny: Tiny, tmp_path: Path, flags: list[str], words: str
) -> None:
    refused = run("run", tiny.recipe, "--out", tmp_path / "run", *flags, code=2)
    assert refused.err.startswith("error: ") and refused.err.count("\n") == 1 and words in refused.err
    assert refused.out == "" and not (tmp_path / "run").exists()


def test_a_recipe_that_is_wrong_is_one_line(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    wrong = [
        ("defualt", "did you mean 'default'"),
        (tiny.variant("a.toml", ("samples = 64", 'importance = "tailor"')), "did you mean 'taylor'"),
        (tiny.variant("b.toml", ("epochs = 2", "epoch = 2")), "epoch"),
        (tiny.variant("c.toml", ("title =", "title")), "not TOML"),
    ]
    for recipe, words in wrong:
        refused = run("run", recipe, "--out", tmp_path / "run", code=2)
        assert refused.err.count("\n") == 1 and words in refused.err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["a file", "below a file", "no place to write"])
def test_an_out_that_will_not_do(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    out = {"a file": file, "below a file": file / "run", "no place to write": Path("/proc/run")}[kind]
    with pytest.raises(UserError, match=r"is a file|cannot be written"):
        compress.run(str(tiny.recipe), out=out)
    assert file.read_text() == "mine"


def test_a_loss_that_explodes_names_its_stage(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny.variant("hot.toml", ("epochs = 2\nlr = 0.05", "epochs = 2\nlr = 1e30"))
    refused = run("run", recipe, "--out", tmp_path / "run", code=2)
    assert refused.err.startswith("error: finetune 1: the loss is not finite after epoch 1; lower")
    assert refused.err.count("\n") == 1
    assert [record.name for record in read_records(tmp_path / "run")[1]] == NAMES[:3]


def test_a_given_teacher_is_used(run: Compress, tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    """The run's own teacher, given: the same student comes out; another teacher, another student."""
    out = tmp_path / "run"
    given = run("run", tiny.recipe, "--teacher", finished / FILES[0], "--out", out)
    assert_same_student(out, finished)
    first, *_ = read_records(out)[1]
    theirs = read_records(finished)[1][0]
    assert (first.name, first.params, first.val, first.test) == ("teach", theirs.params, theirs.val, theirs.test)
    assert first.epochs == 0 and "given by" in given.out and not (out / "stages" / "01-teach.jsonl").exists()

    other = own_model(finished / FILES[0])
    torch.nn.init.normal_(other.model[-1].weight)
    checkpoint.save(other, tmp_path / "other.pth")
    compress.run(str(tiny.recipe), teacher=str(tmp_path / "other.pth"), out=tmp_path / "differs")
    assert not torch.equal(weights(tmp_path / "differs" / FILES[1])["6.bias"], weights(finished / FILES[1])["6.bias"])


def assert_same_student(run: Path, other: Path) -> None:
    a, b = weights(run), weights(other)
    assert all(torch.equal(a[key], b[key]) for key in b)


def test_a_given_teacher_sees_images_as_it_learned_to(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    teacher = own_model(finished / FILES[0])
    checkpoint.save(Checkpoint(**(vars(teacher) | {"mean": (0.1, 0.2, 0.3)})), tmp_path / "t.pth")
    plan = make_plan(load(str(tiny.recipe), {"teacher": tmp_path / "t.pth"}))
    assert plan.data.mean == pytest.approx((0.1, 0.2, 0.3))


def test_a_teacher_of_other_classes_is_refused(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    teacher = own_model(finished / FILES[0])
    checkpoint.save(Checkpoint(**(vars(teacher) | {"classes": ("a", "b", "c", "d")})), tmp_path / "t.pth")
    with pytest.raises(UserError, match="knows other classes"):
        compress.run(str(tiny.recipe), teacher=tmp_path / "t.pth", out=tmp_path / "run")


def test_the_test_split_is_read_at_the_end_and_decides_nothing(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    data, out = write_folder(tmp_path / "images"), tmp_path / "run"
    for path in (data / "test").rglob("*.png"):
        path.write_text("not to be read yet")
    recipe = tiny.variant("blind.toml", (str(tiny.data), str(data)))
    refused = run("run", recipe, "--out", out, code=2)
    assert "cannot read the image" in refused.err and "/test/" in refused.err
    manifest, records = read_records(out)
    assert [record.name for record in records] == NAMES and {record.test for record in records} == {None}
    assert manifest["status"] == "running" and not (out / "model.pth").exists()

    shutil.rmtree(data)
    write_folder(data)
    done = run("run", recipe, "--out", out)
    assert done.out.count("done before") == len(NAMES)
    assert_same(out, finished)


def long_recipe(tiny: Tiny) -> Path:
    return tiny.variant("long.toml", ('"teach"\nepochs = 3', '"teach"\nepochs = 3000'))


def test_two_runs_at_once_in_one_directory(start: Compress, run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = start("run", long_recipe(tiny), "--out", out)
    wait_for((out / "stages" / "01-teach.state").exists)
    for flags in ([], ["--fresh"]):
        second = run("run", long_recipe(tiny), "--out", out, *flags, code=2)
        assert "another run is at work" in second.err and second.err.count("\n") == 1
    assert first.process.is_alive() and (out / "stages" / "01-teach.state").exists()


def test_ctrl_c_is_one_line_and_130(start: Compress, tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = start("run", long_recipe(tiny), "--out", out)
    wait_for((out / "stages" / "01-teach.state").exists)
    command.send(signal.SIGINT)
    assert command.wait() == 130
    assert command.err == "stopped; the same command goes on after the last finished epoch\n"
    assert (out / "stages" / "01-teach.state").exists() and not list(out.rglob(".*.part"))


def test_progress_and_colours_in_a_terminal(run: Compress, tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shown = run("run", tiny.recipe, "--out", out, tty=True, env={"TERM": "xterm-256color", "COLUMNS": "140"})
    wait_for(lambda: "model.pth" in shown.out.rsplit("all ", 1)[-1])
    assert "\x1b[1m" in shown.out and "images/s" in shown.out and "epoch 1/3" in shown.out and "━" in shown.out
    assert_same(out, finished)


def test_fewer_images(tiny: Tiny) -> None:
    whole = len(make_plan(load(str(tiny.recipe))).data.train)
    assert whole == 198
    for overrides, images in (({"limit": 40}, 40), ({"share": 0.5}, 99), ({"limit": 6000}, whole)):
        assert len(make_plan(load(str(tiny.recipe), overrides)).data.train) == images
    assert len(make_plan(load(str(tiny.recipe)).quick()).data.train) == whole


def test_torchvision_networks_by_flag_and_from_python_alike(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny.variant(
        "torchvision.toml",
        *(("epochs = 3", "epochs = 1"), ("epochs = 2", "epochs = 1"), ("samples = 64", "samples = 16")),
        ("lr = 5e-3\n\n", "lr = 5e-3\nscale = 0.5\n\n"),
    )
    flags = {"teacher": "resnet18", "student": "resnet18", "stem": "small", "budget": "2%", "limit": 32}
    run("run", recipe, "--out", tmp_path / "a", *(word for key in flags for word in (f"--{key}", flags[key])))
    manifest, records = read_records(tmp_path / "a")
    assert manifest["recipe"]["student"] == asdict(Network("resnet18", "small"))
    assert manifest["recipe"]["teacher"] == asdict(Network("resnet18"))
    assert records[0].params == 11_178_564 and records[1].params == 11_170_884
    assert manifest["budget"]["params"] == int(0.02 * 11_170_884)
    again = compress.run(str(recipe), out=tmp_path / "a", **flags)  # the very same run, so it is done
    assert list(again.records) == records
    kept = compress.load(again.model)  # and no word of ours is needed to load torchvision's
    assert kept.network == Network("resnet18", "small")
    assert 0.95 * 0.02 * 11_170_884 <= count(kept.model, kept.input_size).params <= 0.02 * 11_170_884


def test_overrides_in_python(tiny: Tiny, finished: Path) -> None:
    read = load(str(tiny.recipe), {"teacher": {"name": "resnet34", "stem": "half"}, "student": "vgg11", "stem": None})
    assert read.teacher == Network("resnet34", "half") and read.student == Network("vgg11")
    given = load(str(tiny.recipe), {"teacher": finished / FILES[0]})
    assert given.weights == str(finished / FILES[0]) and given.teacher == Network("tinynets:teacher")
    again = compress.run(load(str(tiny.recipe), {"budget": "4k"}), budget=3000, out=finished)
    assert again.records[-1].name == "finetune 2"
    small = tiny.variant("small.toml", ('name = "tinynets:student"', 'name = "resnet18"\nstem = "small"'))
    assert load(str(small), {"student": "tinynets:student"}).student == Network("tinynets:student")
    for name in ("resnet34", "resnet10_concat", "resnext29_32x8d", "efficientnet_b0"):
        assert load(str(small), {"student": name}).student == Network(name, "small")
    assert load(str(small), {"student": "densenet40_12"}).student == Network("densenet40_12")


def test_a_budget_close_to_the_student_leaves_rounds_without_work(tiny: Tiny, tmp_path: Path) -> None:
    """Channels are coarse steps: the first round may land below the second round's target."""
    result = compress.run(str(tiny.recipe), budget="98%", out=tmp_path / "run", limit=64)
    assert result.records[-1].params <= int(0.98 * 14_548)


def test_rounds_that_would_hardly_shrink_the_network_are_left_out(tiny: Tiny) -> None:
    def names(budget: str) -> list[str]:
        return [step.name for step in make_plan(load(str(tiny.recipe), {"budget": budget})).steps]

    assert names("3k") == NAMES
    assert names("60%") == ["teach", "distill", "prune", "finetune"]


@pytest.mark.parametrize(
    "budgets", [{"macs": "40%"}, {"file_size": "32KB"}, {"budget": "5k", "macs": "200k", "file_size": "40KB"}]
)
def test_budgets_of_every_kind_hold_at_the_end(tiny: Tiny, tmp_path: Path, budgets: dict[str, str]) -> None:
    plan = make_plan(load(str(tiny.recipe), budgets))
    result = compress.run(str(tiny.recipe), out=tmp_path / "run", limit=64, **budgets)
    kept = own_model(result.model)
    found = count(kept.model, kept.input_size)
    whole = count(own_model(tmp_path / "run" / FILES[1]).model, kept.input_size)
    limits = {
        "params": parse(budgets.get("budget", "100M")).of(whole.params),
        "macs": parse(budgets.get("macs", "9M"), "macs").of(whole.macs),
    }
    assert found.params <= limits["params"] and found.macs <= limits["macs"]
    size = result.model.stat().st_size
    assert size <= parse(budgets.get("file_size", "9MB"), "bytes").of(0)
    assert result.records[-1].bytes == (tmp_path / "run" / result.records[-1].checkpoint).stat().st_size
    assert plan.limits.use(found) > 0.9


def test_pruning_by_weights_leaves_just_the_budget(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny.variant("weights.toml", ("samples = 64", 'samples = 64\nmode = "weights"\nimportance = "magnitude"'))
    out = tmp_path / "run"
    done = run("run", recipe, "--out", out)
    kept = own_model(out / "model.pth")
    nonzero = sum(int(p.count_nonzero()) if p.dim() > 1 else p.numel() for p in kept.model.parameters())
    assert nonzero == 3000 and kept.sparse and "3,000 parameters" in done.out
    assert sum(p.numel() for p in kept.model.parameters()) == 14_548
    assert [record.params for record in read_records(out)[1][-2:]] == [3000, 3000]
    mixed = tiny.variant("mixed.toml", ('kind = "prune"\nscale', 'kind = "prune"\nmode = "weights"\nscale'))
    assert "no channels can be pruned after" in run("run", mixed, "--out", tmp_path / "no", code=2).err
    assert "parameters alone" in run("run", recipe, "--macs", "5%", "--out", tmp_path / "no", code=2).err
    assert not (tmp_path / "no").exists()


def test_a_trained_student_is_pruned_and_its_own_teacher(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = run("run", tiny.recipe, "--student", finished / FILES[1], "--out", out, "--limit", 64).out
    records = read_records(out)[1]
    assert [r.name for r in records] == NAMES and said.count("given by") == 2
    assert records[0].params == records[1].params == 14_548 and records[-1].params <= 3000
    for file in FILES[:2]:
        a, b = weights(out / file), weights(finished / FILES[1])
        assert all(torch.equal(a[key], b[key]) for key in b)
    further = tmp_path / "further"  # what has been pruned before can be pruned again
    run("run", tiny.recipe, "--student", out / "model.pth", "--budget", "1500", "--out", further, "--limit", 64)
    assert 1000 < read_records(further)[1][-1].params <= 1500


def test_given_networks_must_see_images_alike_and_are_what_the_recipe_calls_them(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    kept = own_model(finished / FILES[1])
    checkpoint.save(Checkpoint(**(vars(kept) | {"mean": (0.1, 0.2, 0.3)})), tmp_path / "dim.pth")
    given = {"teacher": finished / FILES[0], "student": tmp_path / "dim.pth"}
    with pytest.raises(UserError, match="normalized in another way"):
        make_plan(load(str(tiny.recipe), given))
    evil = Checkpoint(**(vars(kept) | {"network": Network("no_such_module:evil")}))
    checkpoint.save(evil, tmp_path / "evil.pth")
    plan = make_plan(load(str(tiny.recipe), {"student": tmp_path / "evil.pth", "budget": "3k"}))
    assert plan.recipe.student.name == "tinynets:student"  # and nothing of the file's name was imported
    with pytest.raises(UserError, match="its own teacher"):
        load(str(tiny.recipe), {"student": finished / FILES[1], "teacher": "resnet18"})


def test_a_recipe_without_pruning_must_fit_by_itself(tiny: Tiny, tmp_path: Path) -> None:
    stages = '[[stages]]\nkind = "distill"\nepochs = 1\n'
    recipe = tmp_path / "plain.toml"
    recipe.write_text(tiny.recipe.read_text().partition("[[stages]]")[0] + stages)
    with pytest.raises(UserError, match="no prune stage"):
        compress.run(str(recipe), out=tmp_path / "run")
    result = compress.run(str(recipe), out=tmp_path / "run", budget="15k")
    assert [record.name for record in result.records] == ["distill"] and result.model.is_file()
