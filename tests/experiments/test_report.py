"""Reports of sweeps and experiments: the numbers of their runs, and what is refused."""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_pages import change_manifest, read_page
from small_experiment import shares_trials

import compress
from compress.experiments.results import read_trials
from compress.experiments.trial import Trial
from compress.reporting.pages.run_figures import find_front
from compress.runtime.errors import UserError
from compress.runtime.text import plain_cell, safe_cell


@pytest.fixture
def sweep(finished: Path, tmp_path: Path) -> Path:
    """Two finished runs as those of a sweep, and one that is under way."""
    for name, test in (("9k", 0.75), ("3k", 0.5), ("1k", None)):
        run = tmp_path / "sweep" / name
        shutil.copytree(finished, run)
        stages = json.loads((run / "run.json").read_text())["stages"]
        stages[-1] |= {"test": test, "params": 1000 * int(name[:-1])}
        recipe = json.loads((run / "run.json").read_text())["recipe"] | {"data": "fashion-mnist"}
        status = "running" if test is None else "done"
        change_manifest(run, stages=stages, status=status, recipe=recipe)
    return tmp_path / "sweep"


def test_a_sweep_shows_its_networks_beside_published_ones(sweep: Path, tmp_path: Path) -> None:
    page = read_page(compress.report(sweep, tmp_path / "a.html"))
    for text in ("75.00", "50.00", "9,000", "3,000", "DenseNet-BC", "left out: 1k"):
        assert text in page.text
    assert "1,000" not in page.text and "--budgets 9k,3k" in page.text
    assert "accuracy, parameters" in [svg.get("aria-label") for svg in page.find("svg")]
    shutil.rmtree(sweep / "9k")
    shutil.rmtree(sweep / "3k")
    with pytest.raises(UserError, match="none of its runs is finished"):
        compress.report(sweep, tmp_path / "a.html")


@shares_trials
def test_an_experiment_shows_mean_and_deviation(trials: list[Trial], tmp_path: Path) -> None:
    folder = trials[0].folder.parent
    page = read_page(compress.report(folder, tmp_path / "a.html"))
    for label in {tuple(trial.label.values()) for trial in trials}:
        tests = [
            100 * (trial.results[-1].test or 0)
            for trial in trials
            if tuple(trial.label.values()) == label
        ]
        assert f"{statistics.mean(tests):.2f} ± {statistics.stdev(tests):.2f}" in page.text
    assert {(t.folder, t.results, *t.label.items()) for t in read_trials(folder)} == {
        (t.folder, t.results, *t.label.items()) for t in trials
    }


def test_an_experiment_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_text("{}")
    with pytest.raises(UserError, match="none of its runs"):
        compress.report(tmp_path, tmp_path / "a.html")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"table\.csv.*seed"):
        compress.report(tmp_path, tmp_path / "a.html")


Points = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.just("")), min_size=1)


@given(Points)
def test_the_front_is_of_points_that_none_exceeds(points: list[tuple[int, int, str]]) -> None:
    front = find_front(points)
    assert front == sorted(front) and set(front) <= set(points)
    for cost, accuracy, _ in points:
        best = max(y for x, y, _ in front if x <= cost) if front[0][0] <= cost else -1
        assert best >= accuracy
        on_front = (cost, accuracy, "") in front
        beaten = any(
            (x <= cost and y > accuracy) or (x < cost and y == accuracy) for x, y, _ in points
        )
        assert on_front == (not beaten)


@given(st.text().filter(lambda text: not text.startswith("'")))
def test_a_cell_is_read_as_it_was_before_it_was_made_safe(text: str) -> None:
    assert plain_cell(safe_cell(text)) == text
