"""Whether compiling pays: found out on this machine, remembered, and without a trace."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import LEARNING, Stop, StopIn, Tiny, weights

import compress
from compress.pipeline import time_budget as patience
from compress.pipeline.run_dir import read_results
from compress.pipeline.time_budget import FEW, SHORT, pays
from compress.training.events import Events


class Trainings:
    """What `pays` rehearses, on a clock that only steps move: the first takes so long, all others so long."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        plain: tuple[float, float],
        compiled: tuple[float, float],
    ):
        self.now, self.tried, self.notes = 0.0, list[bool](), list[str]()
        self.takes = {False: plain, True: compiled}
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def __call__(self, compiled: bool) -> Callable[[Events, Path], None]:
        def rehearse(events: Events, folder: Path) -> None:
            self.tried.append(compiled)
            for place, _ in enumerate(events.progress(range(1000), 1000, "")):
                self.now += self.takes[compiled][place > 0]
            raise AssertionError("a rehearsal that is to end before the validation does not end")

        return rehearse

    def pays(self, steps: float, seconds: float = math.inf) -> bool:
        return pays(self, steps, seconds, self.notes.append)


def test_short_trainings_do_not_even_try_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    short = Trainings(monkeypatch, (0.1, 0.1), (0.1, 0.01))
    assert not short.pays(FEW - 1) and not short.pays(1e6, SHORT - 1)
    assert short.tried == []  # nor is anything measured
    assert not short.pays(SHORT / 0.1 - 1) and not short.pays(1e6, FEW * 0.1 - 1)
    assert short.tried == [False] and short.notes == []


def test_it_is_compiled_if_that_is_over_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second saved in each step, and 100 s of the compiler: after 200 steps."""
    monkeypatch.setattr("compress.pipeline.time_budget.FEW", 10)
    trainings = Trainings(monkeypatch, (2, 1.5), (101, 1.0))
    assert trainings.pays(201) and trainings.tried == [False, True]
    assert trainings.notes.pop() == "  compiled: 1.5 times as fast, 100 s to compile"
    assert trainings.pays(1e6, 201 * 1.5) and not trainings.pays(1e6, 199 * 1.5)
    assert not trainings.pays(199)
    assert trainings.notes.pop() == "  not compiled: 1.5 times as fast, 100 s to compile"
    assert not Trainings(monkeypatch, (2, 1.5), (101, 1.6)).pays(1e6)  # however long


def test_what_cannot_be_compiled_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings(monkeypatch, (1, 1), (1, 1))

    def rehearsals(compiled: bool) -> Callable[[Events, Path], None]:
        def fail(events: Events, folder: Path) -> None:
            raise RuntimeError("no such\noperator")

        return fail if compiled else trainings(compiled)

    assert not pays(rehearsals, 1e6, math.inf, trainings.notes.append)
    assert trainings.notes == ["  not compiled: no such operator"]


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for torch.compile: the numbers are not quite the same, the compiling takes no time."""
    monkeypatch.setattr(
        torch, "compile", lambda model, **options: lambda images: model(images) * 1.05
    )
    for room in ("training.trainer", "pipeline.run"):
        monkeypatch.setattr(f"compress.{room}.can_compile", lambda device: True)


@pytest.mark.usefixtures("compiler")
def test_a_killed_run_is_compiled_as_it_was(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "pays", lambda rehearsals, steps, seconds, note: True)
    whole, out = tmp_path / "whole", tmp_path / "killed"
    compress.run(str(tiny.recipe), out=whole)
    assert read_results(whole)[0]["compiled"] == dict.fromkeys(LEARNING, True)
    with pytest.raises(Stop):
        compress.run(str(tiny.recipe), out=out, events=StopIn("finetune 2", 2))
    monkeypatch.setattr(
        patience, "pays", lambda rehearsals, steps, seconds, note: False
    )  # measured anew, it would be
    compress.run(str(tiny.recipe), out=out)
    ends = [weights(run) for run in (whole, out, finished)]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    assert not all(torch.equal(ends[0][key], ends[2][key]) for key in ends[0])


@pytest.mark.usefixtures("compiler")
def test_whether_to_compile_is_found_out_anew_on_another_device(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "pays", lambda rehearsals, steps, seconds, note: True)
    with pytest.raises(Stop):
        compress.run(str(tiny.recipe), out=tmp_path / "run", events=StopIn("finetune 2", 2))
    manifest = tmp_path / "run" / "run.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"device": "another"}))
    monkeypatch.setattr(patience, "pays", lambda rehearsals, steps, seconds, note: False)
    compress.run(str(tiny.recipe), out=tmp_path / "run")
    assert read_results(tmp_path / "run")[0]["compiled"] == dict.fromkeys(LEARNING, True) | {
        "finetune 2": False
    }


@pytest.mark.usefixtures("compiler")
def test_finding_out_whether_it_pays_changes_nothing(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that rehearses both ways everywhere, and is compiled then or not, is the run that a recipe orders."""
    monkeypatch.setattr(patience, "SECONDS", 0.01)
    for name in ("FEW", "SHORT"):
        monkeypatch.setattr(patience, name, 0)
    real, notes = patience.pays, list[str]()

    def after_all(*arguments: Any) -> bool:
        real(*arguments[:-1], notes.append)
        return len(notes) != 2  # all but the second stage

    monkeypatch.setattr(patience, "pays", after_all)
    compress.run(str(tiny.recipe), out=tmp_path / "auto")
    said = {f"stages.{stage}.compile": stage != 2 for stage in (1, 2, 4, 6)}
    compress.run(str(tiny.recipe), out=tmp_path / "told", **said)
    auto, told = (weights(tmp_path / name) for name in ("auto", "told"))
    assert len(notes) == 4 and all(torch.equal(auto[key], told[key]) for key in told)
