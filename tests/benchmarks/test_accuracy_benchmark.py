"""benchmarks/accuracy.py on the tiny data set."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from torch import nn

from compress.models.build import import_builder

BUDGET = 100_000
# Keys of the rows 1, 2, 3, 4, 6 and 9.
ROWS = {"ours", "torch-pruning", "torch-pruning-kd", "narrowed", "narrowed-kd", "by-hand"}
ROWS |= {"by-hand-kd"}


def benchmark(*words: object) -> str:
    from accuracy import main

    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


def times(out: Path) -> dict[str, int]:
    return {
        str(p): p.stat().st_mtime_ns
        for p in out.rglob("*")
        if p.is_file() and p.name not in ("accuracy.md", ".lock")
    }


def losses(out: Path, row: str) -> list[float]:
    """Return the loss of every epoch of a row."""
    files = sorted((out / "rows" / row / "seed1").glob("*.jsonl"))
    return [json.loads(line)["loss"] for file in files for line in file.read_text().splitlines()]


@pytest.fixture
def words(recipe: Path, tmp_path: Path) -> tuple[object, ...]:
    """Arguments of a benchmark on the tiny data, with its output in `tmp_path`/out."""
    return "--recipe", recipe, "--budget", BUDGET, "--seeds", "1", "--out", tmp_path / "out"


@pytest.mark.slow
def test_every_row_fits_the_budget_and_is_made_once(
    words: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shown = benchmark(*words, "--rows", "1,2,3,4,6,9")

    cells = {
        file.parent.name: json.loads(file.read_text())
        for file in (out / "rows").glob("*/seed1.json")
    }
    assert cells.keys() == ROWS
    for cell in cells.values():
        assert 0.9 * BUDGET < cell["params"] <= BUDGET
        assert (
            cell["macs"] > 0 and cell["epochs"] == 5 and cell["seconds"] > 0 and cell["seed"] == 1
        )
        assert 0 <= cell["val"] <= 1 and 0 <= cell["test"] <= 1 and cell["note"] == ""
        assert f"{cell['params']:,}" in shown
    # Four classes, not ten.
    assert cells["by-hand"]["params"] == 94_866 - 6 * 33
    for row in ("torch-pruning", "narrowed"):
        assert len(losses(out, row)) == 5 and losses(out, row) != losses(out, f"{row}-kd")
    run = json.loads((out / "seed1" / "run.json").read_text())
    assert (
        cells["ours"]["params"] == run["stages"][-1]["params"]
        and cells["ours"]["test"] == run["stages"][-1]["test"]
    )
    assert "finetune" in run["stages"][-1]["name"] and run["seed"] == 1
    assert not list(out.rglob("?.state")) and not list(out.glob("logits_cache/*"))
    assert (out / "accuracy.md").read_text() in shown

    before = times(out)
    assert benchmark(*words, "--rows", "1,2,3,4,6,9").count("epoch ") == 0
    assert times(out) == before

    lost = out / "rows" / "torch-pruning" / "seed1.json"
    lost.unlink()
    assert "epoch " in benchmark(*words, "--rows", "2")
    changed = {path for path, time in times(out).items() if before.get(path) != time}
    assert {Path(path).relative_to(out / "rows").parts[0] for path in changed} == {"torch-pruning"}
    assert {k: v for k, v in json.loads(lost.read_text()).items() if k != "seconds"} == {
        k: v for k, v in cells["torch-pruning"].items() if k != "seconds"
    }


def test_a_table_s_row_is_mean_and_sample_deviation_over_the_seeds() -> None:
    from accuracy import Cell, columns
    from rows import ROWS as ways

    cells = [
        Cell(seed, 90 + seed, 10**6 * seed, 0.9, test, 60.0, 5)
        for seed, test in ((1, 0.90), (2, 0.91), (3, 0.95))
    ]
    written = columns(ways[0], [*cells, Cell(4, note="refused")])
    assert written == [
        "1",
        "ours",
        "93",
        "3.00 M",
        "90.00 ± 0.00",
        "92.00 ± 2.65",
        "5",
        "1.0 ± 0.0",
        "refused",
    ]


@pytest.mark.slow
def test_single_weights_that_are_zero_do_not_count(recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text().replace('kind = "prune"\n', 'kind = "prune"\nmode = "weights"\n')
    (sparse := recipe.with_name("sparse.toml")).write_text(text)
    benchmark(
        "--recipe",
        sparse,
        "--budget",
        3000,
        "--seeds",
        "1",
        "--rows",
        "1",
        "--out",
        tmp_path / "out",
    )
    cell = json.loads((tmp_path / "out" / "rows" / "ours" / "seed1.json").read_text())
    assert cell["params"] == 3000


def test_a_recipe_without_a_cut_is_refused_before_anything_trains(tmp_path: Path) -> None:
    from accuracy import main

    done = CliRunner().invoke(
        main, ["--recipe", "imagenette-alone", "--out", str(tmp_path / "out")]
    )
    assert (
        done.exit_code == 2
        and "prune and finetune" in done.output
        and not (tmp_path / "out").exists()
    )


@pytest.mark.slow
def test_a_row_goes_on_where_it_was_stopped(
    words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import accuracy

    with monkeypatch.context() as patch:
        # The row breaks off when all of its training is done.
        patch.setattr(accuracy, "measure_accuracy", lambda *args, **options: 1 / 0)
        stopped = CliRunner().invoke(accuracy.main, [str(word) for word in (*words, "--rows", "2")])
    assert isinstance(stopped.exception, ZeroDivisionError) and "epoch " in stopped.output
    cell = tmp_path / "out" / "rows" / "torch-pruning" / "seed1.json"
    assert not cell.exists() and len(list(cell.with_suffix("").glob("?.state"))) == 2

    shown = benchmark(*words, "--rows", "2")
    assert "resuming after epoch 2 of 2" in shown and "resuming after epoch 3 of 3" in shown
    assert "  epoch " not in shown and json.loads(cell.read_text())["params"] <= BUDGET


@pytest.mark.slow
def test_rows_timed_by_our_run_and_tools_that_refuse(
    words: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rows as ways

    monkeypatch.setitem(sys.modules, "modelopt", None)
    monkeypatch.setitem(sys.modules, "fastai", None)
    monkeypatch.setattr(ways, "relative_step", lambda setting: 2.0)
    shown = benchmark(*words, "--rows", "5,7,8,10,11")
    rows = tmp_path / "out" / "rows"
    assert "fasterai cannot be imported" in shown
    refused = json.loads((rows / "fastnas" / "seed1.json").read_text())
    assert refused["params"] is None and "nvidia-modelopt cannot be imported" in refused["note"]
    assert refused["note"] in shown

    stages = json.loads((tmp_path / "out" / "seed1" / "run.json").read_text())["stages"]
    pace = 2 * stages[-1]["seconds"] / stages[-1]["epochs"]
    for key, first in (("by-hand-all", 0), ("by-hand-no-teacher", 1), ("by-hand-kd-all", 1)):
        epochs = json.loads((rows / key / "seed1.json").read_text())["epochs"]
        spent = sum(stage["seconds"] for stage in stages[first:])
        assert epochs >= 1 and (epochs - 0.5) * pace <= max(spent, pace) <= (epochs + 0.5) * pace

    # The stored number of epochs holds, even at another speed.
    monkeypatch.setattr(ways, "relative_step", lambda setting: 0.01)
    again = rows / "by-hand-all" / "seed1.json"
    before = json.loads(again.read_text())["epochs"]
    again.unlink()
    benchmark(*words, "--rows", "7")
    assert json.loads(again.read_text())["epochs"] == before

    (rows / "fastnas" / "seed1.json").unlink()
    asked: list[int] = []

    def cut(
        model: nn.Module, constraints: dict[str, int], config: dict[str, Any], **options: Any
    ) -> Any:
        asked.append(constraints["params"])
        if len(asked) == 1:
            raise ValueError("a long table\nno network is that small")
        config["forward_loop"](model)
        assert 0 <= config["score_func"](model) <= 1
        return import_builder("tinynets:student")(num_classes=4), {}

    prune = SimpleNamespace(prune=cut)
    monkeypatch.setitem(
        sys.modules, "modelopt", SimpleNamespace(torch=SimpleNamespace(prune=prune))
    )
    monkeypatch.setitem(sys.modules, "modelopt.torch.prune", prune)
    benchmark(*words, "--rows", "5")
    made = json.loads((rows / "fastnas" / "seed1.json").read_text())
    assert made["params"] == 14_548 and made["epochs"] == 5 and asked == [BUDGET, 2 * BUDGET]
    assert made["note"] == "refuses 100,000: no network is that small; asked for 200,000"


@pytest.mark.slow
def test_a_classifier_that_is_there_is_cut_and_teaches(
    words: tuple[object, ...], tmp_path: Path
) -> None:
    benchmark(*words, "--rows", "1")
    student = tmp_path / "out" / "seed1" / "stages" / "02-distill.pth"
    out = tmp_path / "given"
    benchmark(*words[:-1], out, "--student", student, "--rows", "1,3")
    stages = json.loads((out / "seed1" / "run.json").read_text())["stages"]
    assert [stage["kind"] for stage in stages[:3]] == ["teach", "distill", "prune"]
    # Both are the given network.
    assert stages[0]["params"] == stages[1]["params"] and stages[0]["val"] == stages[1]["val"]
    cells = [
        json.loads((out / "rows" / key / "seed1.json").read_text())
        for key in ("ours", "torch-pruning-kd")
    ]
    trained = sum(stage["seconds"] for stage in stages if stage["kind"] in ("teach", "distill"))
    assert trained < 1 < sum(cell["seconds"] for cell in cells) and all(
        cell["params"] <= BUDGET for cell in cells
    )
