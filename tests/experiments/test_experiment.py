"""Experiments: small runs that are repeated, killed, extended, or fail in part."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_experiment import (
    GRID,
    PAIR,
    modification_times,
    read_manifest,
    same_weights,
    shares_trials,
)
from tiny import Compress, Tiny, wait_for

import compress
from compress.experiments.experiment import _teacher_recipe, plan_experiment, run_experiment
from compress.experiments.ledger import read_ledger
from compress.experiments.trial import Trial
from compress.pipeline.run_dir import locked
from compress.recipe.load import load_recipe
from compress.runtime.checksum import seal_table
from compress.runtime.errors import UserError

TEACHER = Path("stages") / "01-teach.pth"


def has_own_teacher(trial: Trial) -> bool:
    return read_manifest(trial)["recipe"]["teacher"]["weights"] is None


@shares_trials
def test_a_teacher_is_trained_once_for_all_trials_that_would_train_the_same(
    trials: list[Trial], tmp_path: Path
) -> None:
    own = {(t.recipe.seed, t.recipe.data_fraction): t for t in trials if has_own_teacher(t)}
    assert list(own) == [(0, 1.0), (0, 0.4), (1, 1.0), (1, 0.4)]
    for trial in trials:
        source = own[trial.recipe.seed, trial.recipe.data_fraction]
        assert same_weights(trial.folder / TEACHER, source.folder / TEACHER)
    first = own[0, 1.0].folder / TEACHER
    assert not same_weights(first, own[0, 0.4].folder / TEACHER)
    assert not same_weights(first, own[1, 1.0].folder / TEACHER)


@shares_trials
def test_a_shared_teacher_changes_no_result(trials: list[Trial], tmp_path: Path) -> None:
    shared = next(t for t in trials if not has_own_teacher(t) and t.label["distill.alpha"] == "0.9")
    alone = compress.run(shared.recipe, out=tmp_path / "alone")
    assert same_weights(alone.model, shared.folder / "model.pth")


@shares_trials
def test_a_run_needs_only_its_own_directory(trials: list[Trial], tmp_path: Path) -> None:
    shared = next(trial for trial in trials if not has_own_teacher(trial))
    alone = shutil.copytree(shared.folder, tmp_path / "alone")
    manifest = read_manifest(shared)
    # Of a trial that does not exist any more.
    manifest["recipe"]["teacher"]["weights"] = str(tmp_path / "gone" / "01-teach.pth")
    (alone / "run.json").write_text(json.dumps(seal_table(manifest)))
    again = compress.run(alone / "run.json", out=tmp_path / "again")
    assert same_weights(again.model, shared.folder / "model.pth")

    manifest |= {"status": "running", "stages": manifest["stages"][:1]}
    (alone / "run.json").write_text(json.dumps(seal_table(manifest)))
    (alone / "model.pth").unlink()
    resumed = compress.run(alone / "run.json", out=alone)
    assert same_weights(resumed.model, shared.folder / "model.pth")


@pytest.mark.parametrize(
    ("key", "value", "shared"),
    [
        ("student.head", [8], True),
        ("distill.epochs", 9, True),
        ("budget", "2M", True),
        ("teach.lr", 0.1, False),
        ("teacher.stem", "small", False),
        ("max_images", 80, False),
        ("data_fraction", 0.5, False),
        ("image_size", 20, False),
        ("batch_size", 16, False),
        ("minutes", 5, False),
        ("seed", 1, False),
        ("teacher.weights", "mine.pth", False),
        ("student.weights", "mine.pth", False),
    ],
)
def test_keys_that_determine_a_teacher(folder: Path, key: str, value: object, shared: bool) -> None:
    pair = str(folder / "pair.toml")
    one, other = (load_recipe(pair, overrides) for overrides in ({}, {key: value}))
    assert _teacher_recipe(one) is not None
    assert (_teacher_recipe(one) == _teacher_recipe(other)) == shared


@shares_trials
def test_a_finished_experiment_is_shown_without_running_or_importing_torch(
    run: Compress, folder: Path, trials: list[Trial]
) -> None:
    runs = folder / "runs"
    before, table = modification_times(runs), (runs / "table.md").read_text()
    shown = run("experiment", folder / "grid.toml", "--out", runs).out
    assert modification_times(runs) == before and (runs / "table.md").read_text() == table
    assert "epoch" not in shown and shown.count(" ± ") == 8 and str(runs / "table.png") in shown
    code = (
        "import sys\n"
        "from compress.experiments.experiment import run_experiment\n"
        f"assert len(run_experiment({str(folder / 'grid.toml')!r}, out={str(runs)!r})) == 8\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@shares_trials
def test_a_killed_experiment_resumes_with_the_same_results(
    start: Compress, run: Compress, folder: Path, trials: list[Trial], tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    command = ("experiment", folder / "grid.toml", "--out", out)
    victim, third = start(*command), out / trials[2].folder.name
    # Until it trains the third trial's teacher.
    wait_for((third / "stages" / "01-teach.jsonl").is_file)
    victim.send(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    second = modification_times(out / trials[1].folder.name)
    assert second
    # The first trial, whose teacher the second one shares, is lost.
    shutil.rmtree(out / trials[0].folder.name)
    run(*command)
    assert modification_times(out / trials[1].folder.name) == second
    for trial in trials:
        assert same_weights(trial.folder / "model.pth", out / trial.folder.name / "model.pth")


@shares_trials
def test_only_what_is_added_to_the_file_is_run(
    folder: Path, trials: list[Trial], tmp_path: Path
) -> None:
    out = shutil.copytree(folder / "runs", tmp_path / "runs")
    before = modification_times(out)
    more = folder / "more.toml"
    one_seed = GRID.replace("seeds = 2", "seeds = [1]")
    more.write_text(one_seed.replace("0.9", "0.9, 1.0") + "distill.fade = [false]\n")
    extended = run_experiment(more, out=out)
    assert len(extended) == 6 and all(trial.results for trial in extended)
    after = modification_times(out)
    assert {file: after[file] for file in before} == before
    assert {Path(file).relative_to(out).parts[0] for file in after.keys() - before.keys()} == {
        "data_fraction=1.0,distill.alpha=1.0,seed=1",
        "data_fraction=0.4,distill.alpha=1.0,seed=1",
    }
    rows = re.findall(r"^\| [\d.]+ \| [\d.]+ .*\| 1 \|", (out / "table.md").read_text(), re.M)
    assert len(rows) == 6


@shares_trials
def test_other_recipes_in_the_same_directory_are_other_trials(
    folder: Path, trials: list[Trial]
) -> None:
    other = folder / "other.toml"
    other.write_text(GRID.replace("max_images = 96", "max_images = 90"))
    planned = plan_experiment(other, out=folder / "runs")
    assert len(planned) == 8 and not any(trial.results for trial in planned)
    assert {trial.folder for trial in planned}.isdisjoint((folder / "runs").iterdir())


@pytest.mark.slow
def test_a_trial_that_fails_leaves_the_others_alone(
    run: Compress, folder: Path, tmp_path: Path
) -> None:
    file, out = folder / "failing.toml", tmp_path / "runs"
    file.write_text(
        'recipe = "pair.toml"\nkeys.max_images = 64\n[grid]\n"distill.lr" = [1e30, 5e-3]\n'
    )
    failed = run("experiment", file, "--out", out, code=1)
    bad, good = out / "distill.lr=1e+30,seed=0", out / "distill.lr=0.005,seed=0"
    assert re.fullmatch(rf"{re.escape(str(bad))}: distill: .*lr.*\n", failed.err)
    table = (out / "table.md").read_text()
    assert "| 0 of 1 |" in table and f"{bad.name} failed: distill:" in table
    assert same_weights(good / TEACHER, bad / TEACHER)
    assert {name: bool(entry.error) for name, entry in read_ledger(out).trials.items()} == {
        bad.name: True,
        good.name: False,
    }
    [planned, _] = plan_experiment(file, out=out)
    assert planned.folder == bad and "distill: " in (planned.error or "")

    before = modification_times(good)
    again = run("experiment", file, "--out", out, code=1)
    assert modification_times(good) == before and again.err == failed.err
    assert "(1 of 1)" in again.out


def test_an_image_that_cannot_be_read_is_found_before_any_trial(
    run: Compress, folder: Path, tiny: Tiny, tmp_path: Path
) -> None:
    shutil.copytree(tiny.data, data := tmp_path / "data")
    image = next((data / "train").rglob("*.png"))
    image.write_bytes(b"not an image")
    (tmp_path / "pair.toml").write_text(PAIR.format(data=data))
    (tmp_path / "all.toml").write_text('recipe = "pair.toml"\n[grid]\ndistill.alpha = [0.0, 0.9]\n')
    said = run("experiment", tmp_path / "all.toml", "--out", tmp_path / "runs", code=2).err
    assert said.count("\n") == 1 and str(image) in said and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("sign", "kept"), [("a", 93), ("\u7f51", 31)])
def test_a_long_name_in_any_script_becomes_a_directory(
    folder: Path, tmp_path: Path, sign: str, kept: int
) -> None:
    file = folder / "long.toml"
    rows = (f'[[rows]]\nname = "{sign * 120}{i}"\nmax_images = 9{i}\n' for i in range(2))
    file.write_text('recipe = "pair.toml"\n' + "".join(rows), encoding="utf-8")
    planned = plan_experiment(file, out=tmp_path)
    names = [f"{sign * (kept - 1)}{i},seed=0" for i in range(2)]
    assert [trial.folder.name for trial in planned] == names


def test_a_directory_with_other_files_is_refused(
    run: Compress, folder: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    refused = run("experiment", folder / "grid.toml", "--out", mine, code=2)
    assert f"{mine}: " in refused.err and "--out" in refused.err
    assert [file.name for file in mine.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("text", ["", "[]", '{"a": {"error": null}}', '{"a": 3}'])
def test_a_damaged_ledger_is_named(folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "experiment.json").write_text(text)
    with pytest.raises(UserError, match=r"experiment\.json: damaged: .*--out"):
        plan_experiment(folder / "grid.toml", out=tmp_path)


def test_a_missing_file_is_named(run: Compress, tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert run("experiment", missing, code=2).err == f"error: {missing}: no such file\n"


def test_two_at_once_in_one_directory(run: Compress, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    with locked(out):
        refused = run("experiment", folder / "grid.toml", "--out", out, code=2)
    assert f"{out}: another run" in refused.err
    assert [file.name for file in out.iterdir()] == [".lock"]
