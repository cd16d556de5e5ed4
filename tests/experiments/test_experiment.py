"""Experiments: a grid of small runs, called again, killed, extended, failing in part, or asked for what cannot be."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import Compress, Tiny

import compress
from compress.experiments import experiment as experiments
from compress.experiments.experiment import Cell
from compress.pipeline.run_dir import locked
from compress.recipe import load as recipes
from compress.runtime.errors import UserError

PAIR = """
data = "folder:{data}"
image_size = 16
budget = "1M"
batch_size = 32
[teacher]
name = "tinynets:teacher"
[student]
name = "tinynets:student"
[[stages]]
kind = "teach"
epochs = 2
optimizer = "adamw"
lr = 5e-3
[[stages]]
kind = "distill"
epochs = 2
optimizer = "adamw"
lr = 5e-3
"""
GRID = """
recipe = "pair.toml"
seeds = 2
[keys]
max_images = 96
[grid]
data_fraction = [1.0, 0.4]
distill.alpha = [0.0, 0.9]
"""


@pytest.fixture(scope="session")
def folder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a recipe of two stages lies, and a file that experiments with it."""
    folder = tmp_path_factory.mktemp("experiments")
    (folder / "pair.toml").write_text(PAIR.format(data=tiny.data))
    (folder / "grid.toml").write_text(GRID)
    return folder


@pytest.fixture(scope="session")
def cells(folder: Path) -> list[Cell]:
    """The grid, done by an experiment that nothing disturbed."""
    return experiments.run(folder / "grid.toml", out=folder / "runs")


def tensors(file: Path) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return kept


def same(one: Path, other: Path) -> bool:
    ours, theirs = tensors(one), tensors(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def stamps(folder: Path) -> dict[str, int]:
    return {
        str(file): file.stat().st_mtime_ns for file in folder.glob("*/**/*") if file.name != ".lock"
    }


def manifest(cell: Cell) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((cell.folder / "run.json").read_text())
    return read


def accuracies(cells: list[Cell], **keys: str) -> list[float]:
    chosen = [
        cell
        for cell in cells
        if cell.keys == {key.replace("_", "."): value for key, value in keys.items()}
    ]
    return [100 * manifest(cell)["stages"][-1]["test"] for cell in chosen]


def test_every_combination_is_a_row_with_its_mean_and_sample_deviation(cells: list[Cell]) -> None:
    text = (cells[0].folder.parent / "table.md").read_text()
    rows = re.findall(
        r"^\| ([\d.]+) \| ([\d.]+) \| 14,548 \| .* \| ([\d.]+) ± ([\d.]+) \| 2 \|", text, re.M
    )
    assert [row[:2] for row in rows] == [
        ("1.0", "0.0"),
        ("1.0", "0.9"),
        ("0.4", "0.0"),
        ("0.4", "0.9"),
    ]
    for share, alpha, mean, deviation in rows:
        came = accuracies(cells, share=share, distill_alpha=alpha)
        assert len(came) == 2
        assert (mean, deviation) == (f"{np.mean(came):.2f}", f"{np.std(came, ddof=1):.2f}")


def test_every_run_is_a_line_of_the_csv_and_can_be_done_again(
    cells: list[Cell], tmp_path: Path
) -> None:
    with (cells[0].folder.parent / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 8
    for line in lines:
        run = json.loads((Path(line["directory"]) / "run.json").read_text())
        assert (run["seed"], run["recipe"]["share"], run["recipe"]["stages"][1]["alpha"]) == (
            int(line["seed"]),
            float(line["share"]),
            float(line["distill.alpha"]),
        )
        assert float(line["test"]) == run["stages"][-1]["test"] and not line["error"]
        assert float(line["seconds"]) == pytest.approx(run["stages"][1]["seconds"], abs=0.1)
    again = compress.run(Path(lines[-1]["directory"]) / "run.json", out=tmp_path / "again")
    assert same(again.model, Path(lines[-1]["directory"]) / "model.pth")


def test_there_is_a_picture(cells: list[Cell]) -> None:
    with Image.open(cells[0].folder.parent / "table.png") as picture:
        colours = {pixel for _, pixel in picture.convert("RGB").getcolors(1 << 20) or []}
    assert (
        picture.format == "PNG" and {(31, 119, 180), (255, 127, 14)} <= colours
    )  # one for each alpha


def test_a_teacher_is_trained_once_for_all_that_it_suits(cells: list[Cell], tmp_path: Path) -> None:
    trained = [cell for cell in cells if manifest(cell)["recipe"]["weights"] is None]
    assert [(c.recipe.seed, c.recipe.data_fraction) for c in trained] == [
        (0, 1.0),
        (0, 0.4),
        (1, 1.0),
        (1, 0.4),
    ]
    files = {
        (c.recipe.seed, c.recipe.data_fraction): c.folder / "stages" / "01-teach.pth"
        for c in trained
    }
    for cell in cells:
        assert same(
            cell.folder / "stages" / "01-teach.pth",
            files[cell.recipe.seed, cell.recipe.data_fraction],
        )
    assert not same(files[0, 1.0], files[0, 0.4]) and not same(files[0, 1.0], files[1, 1.0])
    given = next(
        cell for cell in cells if cell not in trained and cell.keys["distill.alpha"] == "0.9"
    )
    alone = compress.run(given.recipe, out=tmp_path / "alone")  # trains the teacher itself
    assert same(alone.model, given.folder / "model.pth")


def test_a_run_needs_nothing_but_its_directory(cells: list[Cell], tmp_path: Path) -> None:
    given = next(cell for cell in cells if manifest(cell)["recipe"]["weights"])
    alone = shutil.copytree(given.folder, tmp_path / "alone")
    run = manifest(given)
    run["recipe"]["weights"] = str(tmp_path / "gone" / "01-teach.pth")  # of a cell that is no more
    (alone / "run.json").write_text(json.dumps(run))
    assert same(
        compress.run(alone / "run.json", out=tmp_path / "again").model, given.folder / "model.pth"
    )
    (alone / "run.json").write_text(
        json.dumps(run | {"status": "running", "stages": run["stages"][:1]})
    )
    (alone / "model.pth").unlink()
    assert same(
        compress.run(alone / "run.json", out=alone).model, given.folder / "model.pth"
    )  # it goes on


@pytest.mark.parametrize(
    ("key", "value", "shared"),
    [
        ("student.head", [8], True),
        ("distill.epochs", 9, True),
        ("budget", "2M", True),
        ("teach.lr", 0.1, False),
        ("teacher.stem", "small", False),
        ("limit", 80, False),
        ("size", 20, False),
        ("batch", 16, False),
        ("minutes", 5, False),
        ("weights", "mine.pth", False),
        ("start", "mine.pth", False),
    ],
)
def test_what_a_teacher_depends_on(folder: Path, key: str, value: object, shared: bool) -> None:
    one, other = (
        recipes.load_recipe(str(folder / "pair.toml"), change) for change in ({}, {key: value})
    )
    assert (experiments._teaching(one) == experiments._teaching(other)) == shared


def test_called_again_it_does_nothing_and_shows_the_same(
    run: Compress, folder: Path, cells: list[Cell]
) -> None:
    before, table = stamps(folder / "runs"), (folder / "runs" / "table.md").read_text()
    said = run("experiment", folder / "grid.toml", "--out", folder / "runs").out
    assert stamps(folder / "runs") == before and (folder / "runs" / "table.md").read_text() == table
    assert "epoch" not in said and said.count(" ± ") == 8 and "table.png" in said
    code = f"""import sys; from compress.experiments.experiment import run; assert len(run({str(folder / "grid.toml")!r},
        out={str(folder / "runs")!r})) == 8 and 'torch' not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_killed_it_goes_on_and_comes_to_the_same(
    start: Compress, run: Compress, folder: Path, cells: list[Cell], tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    command = ("experiment", folder / "grid.toml", "--out", out)
    victim, third = start(*command), out / cells[2].folder.name
    while not (
        third / "stages" / "01-teach.jsonl"
    ).is_file():  # in the middle of the third run's teacher
        assert victim.process.is_alive(), victim.err
        time.sleep(0.01)
    victim.send(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    done = stamps(out / cells[1].folder.name)
    shutil.rmtree(out / cells[0].folder.name)  # and the first is lost
    run(*command)
    assert stamps(out / cells[1].folder.name) == done
    for cell in cells:
        assert same(cell.folder / "model.pth", out / cell.folder.name / "model.pth")


def test_what_is_added_to_the_file_is_all_that_is_done(
    folder: Path, cells: list[Cell], tmp_path: Path
) -> None:
    out = shutil.copytree(folder / "runs", tmp_path / "runs")
    before = stamps(out)
    more = folder / "more.toml"
    more.write_text(
        GRID.replace("seeds = 2", "seeds = [1]").replace("0.9", "0.9, 1.0")
        + "distill.fade = [false]\n"
    )
    came = experiments.run(more, out=out)
    assert [cell.folder.name for cell in came if cell.results] == [
        cell.folder.name for cell in came
    ]
    assert {file: time for file, time in stamps(out).items() if file in before} == before
    new = {Path(file).relative_to(out).parts[0] for file in stamps(out).keys() - before.keys()}
    assert new == {"share=1.0,distill.alpha=1.0,seed=1", "share=0.4,distill.alpha=1.0,seed=1"}
    assert len((out / "table.md").read_text().split("| 1 |")) == 7  # six rows of one seed each
    more.write_text(
        GRID.replace("limit = 96", "limit = 90")
    )  # other runs altogether: nothing of the old is shown
    assert not any(cell.results for cell in experiments.plan(more, out=out)[1])
    assert {cell.folder for cell in experiments.plan(more, out=out)[1]}.isdisjoint(out.iterdir())


def test_a_run_that_fails_leaves_the_others_alone(
    run: Compress, folder: Path, tmp_path: Path
) -> None:
    file, out = folder / "failing.toml", tmp_path / "runs"
    file.write_text('recipe = "pair.toml"\nkeys.limit = 64\n[grid]\n"distill.lr" = [1e30, 5e-3]\n')
    failed = run("experiment", file, "--out", out, code=1)
    bad = out / "distill.lr=1e+30,seed=0"
    assert re.fullmatch(rf"{re.escape(str(bad))}: distill: .*lower.*lr.*\n", failed.err)
    table = (out / "table.md").read_text()
    assert "| 0 of 1 |" in table and f"{bad.name} failed: distill:" in table
    good = out / "distill.lr=0.005,seed=0"
    assert (good / "model.pth").is_file() and same(
        good / "stages/01-teach.pth", bad / "stages/01-teach.pth"
    )
    before = stamps(good)
    again = run("experiment", file, "--out", out, code=1)  # tried again, it alone
    assert stamps(good) == before and again.err == failed.err and "(1 of 1)" in again.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = 3", "seed: unknown key (did you mean 'seeds'?)"),
        ("gird.share = [1]", "gird: unknown key (did you mean 'grid'?)"),
        ("seeds = 0", "seeds: must name one value or more"),
        ("seeds = [1, 1]", "seeds: must name one value or more, each once"),
        ("seeds = 'two'", "seeds: must be a list, not 'two'"),
        ("seeds = [-1]", "seed: must be greater than or equal to 0"),
        ("recipe = 'defualt'", "did you mean 'default'"),
        ("grid.share = 0.5", "grid.share: must be a list, not 0.5"),
        ("grid.shaer = [1.0]", "shaer: unknown key (did you mean 'share'?)"),
        ("grid.share = [0.5, 2]", "share: must be less than or equal to 1"),
        ("grid.share = [0.5, 0.5]", "grid.share: must name one value or more, each once"),
        ("grid.share = []", "grid.share: must name one value or more"),
        ("grid.distill.alhpa = [0]", "stages.2.alhpa: unknown key (did you mean 'alpha'?)"),
        ("grid.distil.alpha = [0]", "distil.alpha: there is nothing of that name in"),
        ("grid.finetune.alpha = [0]", "finetune.alpha: there is nothing of that name in"),
        ("grid.stages.3.alpha = [0]", "stages.3.alpha: there is nothing of that name in"),
        ("grid.seed = [0, 1]", "write seeds = [0, 1, 2]"),
        ("keys.seed = 1", "write seeds = [0, 1, 2]"),
        ("grid.share = [1]\nrows = [{share = 0.5}]", "grid.share: a row says what it is"),
        (
            "rows = [{name = 'a', share = 0.5}, {name = 'a', share = 0.4}]",
            "there is another row like it",
        ),
        (
            "rows = [{share = 0.5}, {limit = 96, share = 0.5}]\nkeys.limit = 96",
            "there is another row like it",
        ),
        ("grid.student = ['tinynets:student', 'resnet_18']", "student resnet_18: "),  # by the plan
        ("grid.budget = ['1M', '5k']", "budget 5k: "),
        ("grid.share = [1", "not TOML"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    run: Compress, folder: Path, tmp_path: Path, text: str, words: str
) -> None:
    file = folder / "wrong.toml"
    file.write_text(text if "recipe" in text else f"recipe = 'pair.toml'\n{text}")
    refused = run("experiment", file, "--out", tmp_path / "runs", code=2)
    assert (
        words in refused.err and refused.err.count("\n") == 1 and not (tmp_path / "runs").exists()
    )


def test_an_experiment_is_no_recipe_and_a_recipe_no_experiment(run: Compress, folder: Path) -> None:
    grid, pair = folder / "grid.toml", folder / "pair.toml"
    for command in (("run", grid), ("sweep", grid, "--budgets", "5k")):
        assert (
            run(*command, code=2).err
            == f"error: {grid}: this is an experiment: `compress experiment {grid}`\n"
        )
    assert (
        run("experiment", pair, code=2).err
        == f"error: {pair}: this is a recipe: `compress run {pair}`\n"
    )


def test_other_directories_are_left_as_they_are(
    run: Compress, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert (
        "not an experiment's"
        in run("experiment", folder / "grid.toml", "--out", tmp_path / "mine", code=2).err
    )
    assert "no such file" in run("experiment", tmp_path / "none.toml", code=2).err


def test_two_at_once_do_not_meet(run: Compress, folder: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "runs"):
        refused = run("experiment", folder / "grid.toml", "--out", tmp_path / "runs", code=2)
    assert "another run is at work" in refused.err and [
        file.name for file in (tmp_path / "runs").iterdir()
    ] == [".lock"]


def test_rows_name_what_goes_together(folder: Path, tmp_path: Path) -> None:
    file = folder / "rows.toml"
    file.write_text(
        "recipe = 'pair.toml'\ngrid.share = [1.0, 0.5]\n"
        "[[rows]]\nname = 'alone'\ndistill.alpha = 0.0\n"
        "[[rows]]\nname = 'taught'\ndistill = {alpha = 0.9, temperature = 2.0}\n"
    )
    _, cells = experiments.plan(file, out=tmp_path / "runs")
    assert [cell.keys for cell in cells] == [
        {"name": name, "share": share} for name in ("alone", "taught") for share in ("1.0", "0.5")
    ]
    distills = [cell.recipe.stages[1] for cell in cells]
    assert [(stage.alpha, stage.temperature) for stage in distills] == [
        (0, 4),
        (0, 4),
        (0.9, 2),
        (0.9, 2),
    ]  # type: ignore[union-attr]
    quick = experiments.plan(file, quick=True)
    assert quick[0] == Path("runs/rows-quick") and quick[1][0].recipe == cells[0].recipe.quick()


def test_overrides_of_stages_by_kind_and_by_place(tiny: Tiny) -> None:
    changed = recipes.load_recipe(
        str(tiny.recipe), {"finetune.epochs": 7, "stages.6.lr": 0.5, "stages.3.samples": 5}
    )
    whole = recipes.load_recipe(str(tiny.recipe))
    told = [
        (getattr(stage, "epochs", None), getattr(stage, "lr", None)) for stage in changed.stages
    ]
    assert told == [(3, 5e-3), (3, 5e-3), (None, None), (7, 0.05), (None, None), (7, 0.5)]
    assert getattr(changed.stages[2], "samples", 0) == 5 and changed.stages[4] == whole.stages[4]
    for key in ("stages.7.lr", "stages.0.lr", "stages.lr", "teach.x.lr"):
        with pytest.raises(UserError, match=f"{key}: there is nothing of that name"):
            recipes.load_recipe(str(tiny.recipe), {key: 1})
