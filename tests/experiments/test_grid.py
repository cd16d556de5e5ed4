"""Experiment files: mistakes are found before anything is written, and rows are expanded."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Compress

from compress.experiments.experiment import plan_experiment, run_experiment
from compress.experiments.grid import expand_rows, load_experiment
from compress.recipe.stages import Train
from compress.runtime.errors import UserError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = 3", ("seed: unknown key", "'seeds'")),
        ("gird.max_images = [1]", ("gird: unknown key", "'grid'")),
        ("seeds = 0", ("seeds: must name one value or more",)),
        ("seeds = [1, 1]", ("seeds: must name one value or more, each once",)),
        ("seeds = 'two'", ("seeds: ", "'two'")),
        ("seeds = 1.5", ("seeds: must be a whole number, or a list", "1.5")),
        ("seeds = [-1]", ("seed: ", "-1")),
        ("recipe = 'defualt'", ("'defualt'", "'default'")),
        ("grid.data_fraction = 0.5", ("grid.data_fraction: ", "0.5")),
        ("grid.data_fractoin = [1.0]", ("data_fractoin: unknown key", "'data_fraction'")),
        ("grid.data_fraction = [0.5, 2]", ("data_fraction: ", "2")),
        ("grid.data_fraction = [0.5, 0.5]", ("grid.data_fraction: ", "each once")),
        ("grid.data_fraction = []", ("grid.data_fraction: ", "one value or more")),
        ("grid.distill.alhpa = [0]", ("stages.2.alhpa: unknown key", "'alpha'")),
        ("grid.distil.alpha = [0]", ("distil.alpha: ", "'distill'")),
        ("grid.finetune.alpha = [0]", ("finetune.alpha: ",)),
        ("grid.stages.3.alpha = [0]", ("stages.3.alpha: ",)),
        ("grid.seed = [0, 1]", ("grid.seed: ", "seeds = [0, 1, 2]")),
        ("keys.seed = 1", ("keys.seed: ", "seeds = [0, 1, 2]")),
        ("rows = [{seed = 1}]", ("rows.seed: ", "seeds = [0, 1, 2]")),
        (
            "grid.data_fraction = [1]\nrows = [{data_fraction = 0.5}]",
            ("grid.data_fraction: ", "row"),
        ),
        (
            "rows = [{name = 'a', data_fraction = 0.5}, {name = 'a', data_fraction = 0.4}]",
            ("name a: ", "same"),
        ),
        (
            "rows = [{data_fraction = 0.5}, {max_images = 96, data_fraction = 0.5}]\n"
            "keys.max_images = 96",
            ("max_images 96: ", "same"),
        ),
        # These two are found by the plan.
        ("grid.student = ['tinynets:student', 'resnet_18']", ("student resnet_18: ",)),
        ("grid.budget = ['1M', '5k']", ("budget 5k: ",)),
        ("grid.data_fraction = [1", ("not TOML",)),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    folder: Path, tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    file = folder / "wrong.toml"
    file.write_text(text if "recipe" in text else f"recipe = 'pair.toml'\n{text}")
    with pytest.raises(UserError) as caught:
        run_experiment(file, out=tmp_path / "runs")
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["", "# recipe = 'pair.toml'", "seeds = 3", "out = 'runs/mine'"])
def test_a_file_that_names_nothing_to_run_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "nothing.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"nothing\.toml: (is empty|names nothing to run)"):
        load_experiment(file)


def test_recipes_and_experiments_are_told_apart(run: Compress, folder: Path) -> None:
    grid, pair = folder / "grid.toml", folder / "pair.toml"
    for command in (("run", grid), ("sweep", grid, "--budgets", "5k")):
        refused = run(*command, code=2)
        assert str(grid) in refused.err and f"`compress experiment {grid}`" in refused.err
    refused = run("experiment", pair, code=2)
    assert str(pair) in refused.err and f"`compress run {pair}`" in refused.err


def test_rows_combine_keys_that_are_set_together_with_the_grid(
    folder: Path, tmp_path: Path
) -> None:
    file = folder / "rows.toml"
    file.write_text(
        "recipe = 'pair.toml'\ngrid.data_fraction = [1.0, 0.5]\n"
        "[[rows]]\nname = 'alone'\ndistill.alpha = 0.0\n"
        "[[rows]]\nname = 'taught'\ndistill = {alpha = 0.9, temperature = 2.0}\n"
    )
    trials = plan_experiment(file, out=tmp_path / "runs")
    assert [trial.label for trial in trials] == [
        {"name": name, "data_fraction": fraction}
        for name in ("alone", "taught")
        for fraction in ("1.0", "0.5")
    ]
    distills = [stage for trial in trials for stage in trial.recipe.stages[1:]]
    assert [(stage.alpha, stage.temperature) for stage in distills if isinstance(stage, Train)] == [
        (0, 4),
        (0, 4),
        (0.9, 2),
        (0.9, 2),
    ]


def test_a_label_has_the_keys_that_differ(folder: Path) -> None:
    file = folder / "labels.toml"
    file.write_text(
        "grid.max_images = [96]\n"
        "rows = [{batch_size = 8, student = {name = 'vgg11', head = [4, 2]}}, {batch_size = 16}]\n"
    )
    labels = [label for label, _ in expand_rows(load_experiment(file))]
    assert labels == [
        {"batch_size": "8", "student.name": "vgg11", "student.head": "4 2"},
        {"batch_size": "16", "student.name": "-", "student.head": "-"},
    ]
    file.write_text("grid.max_images = [96]\n")
    assert [label for label, _ in expand_rows(load_experiment(file))] == [{"max_images": "96"}]


def test_quick_changes_the_recipes_and_the_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for full, quick in zip(
        plan_experiment(folder / "grid.toml"),
        plan_experiment(folder / "grid.toml", quick=True),
        strict=True,
    ):
        assert quick.recipe == full.recipe.quick()
        assert (full.folder.parent, quick.folder.parent) == (
            Path("runs/grid"),
            Path("runs/grid-quick"),
        )
