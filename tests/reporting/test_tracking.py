"""Logs of runs by other tools: the figures of run.json, once each, however often a run is cut."""

from __future__ import annotations

import json
import math
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from code_blocks import ROOT, read_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import Interrupted, InterruptIn, Tiny
from tracker_files import READERS

import compress
from compress.cli.main import main
from compress.pipeline.manifest import StageResult, read_results
from compress.pipeline.run_dir import LOGGED
from compress.reporting.loggers import log_tool
from compress.reporting.loggers.log_tool import LoggedRun, LogTool, get_tool
from compress.reporting.loggers.tracking import Tracker
from compress.reporting.tables import Table
from compress.runtime.sealed_json import open_line
from compress.training.events import PLAIN_METRICS

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


@dataclass
class Recorder:
    """A tool that keeps what it is given."""

    id: str = "recorded"
    numbers: list[tuple[int, str, float]] = field(default_factory=list)
    runs: list[LoggedRun] = field(default_factory=list)
    params: list[Mapping[str, Any]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)
    broken: bool = False

    def open(self, run: LoggedRun) -> Recorder:
        self.runs.append(run)
        return self

    def write_params(self, params: Mapping[str, Any]) -> None:
        self.params.append(params)

    def write_metrics(self, values: Mapping[str, float], step: int) -> None:
        if self.broken:
            raise ConnectionError("the server is away")
        self.numbers += [(step, name, value) for name, value in values.items()]

    def write_image(self, name: str, pixels: Any, step: int) -> None:
        self.numbers.append((step, name, 0.0))

    def write_table(self, name: str, table: Table, step: int) -> None:
        self.tables.append(table)

    def close(self, done: bool) -> None:
        self.closed.append(done)


@pytest.fixture(scope="module")
def logged(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    """A run that was interrupted and resumed, logged by TensorBoard and by a recorder."""
    out, recorder = tmp_path_factory.mktemp("logged") / "run", Recorder()

    def trackers() -> list[Tracker]:
        return [*compress.track("tensorboard"), Tracker(LogTool("recorder", "re", recorder.open))]

    with pytest.raises(Interrupted):
        compress.run(str(tiny.recipe), out=out, callbacks=[*trackers(), InterruptIn("distill", 2)])
    compress.run(str(tiny.recipe), out=out, callbacks=trackers())
    return out, recorder


def read_history(out: Path, result: StageResult) -> list[dict[str, float]]:
    file = (out / result.checkpoint).with_suffix(".jsonl")
    return [open_line(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_the_log_has_the_figures_of_the_run_once_each(logged: tuple[Path, Recorder]) -> None:
    out, recorder = logged
    expected, step = {}, 0
    for result in read_results(out)[1]:
        stage = result.name.replace(" ", "-")
        for metrics in read_history(out, result):
            step += 1
            expected |= {(step, f"{stage}/{k}"): v for k, v in metrics.items() if k != "epoch"}
        step += 1
        for key in ("params", "macs", "bytes", "val", "seconds"):
            expected[step, f"stage/{key}"] = getattr(result, key)
        expected[len(expected), f"test/{stage}"] = result.test
    found = {(step, name): value for step, name, value in recorder.numbers}
    assert len(found) == len(recorder.numbers)
    test = {name: value for (_, name), value in found.items() if name.startswith("test/")}
    assert test == {name: v for (_, name), v in expected.items() if name.startswith("test/")}
    plain = {key: v for key, v in expected.items() if not key[1].startswith("test/")}
    assert plain.items() <= found.items()
    assert {f"distill/{key}" for key in ("labels", "distillation", "lr", "images_per_second")} <= {
        name for _, name in found
    }
    manifest = json.loads((out / "run.json").read_text())
    assert found[step + 1, "final/seconds"] == manifest["seconds"]
    assert found[step + 1, "final/params"] == manifest["stages"][-1]["params"] <= 3000


def test_widths_fall_with_every_cut(logged: tuple[Path, Recorder]) -> None:
    _, recorder = logged
    widths = [value for _, name, value in recorder.numbers if name == "widths/1.0"]
    assert len(widths) == 3 and widths == sorted(widths, reverse=True) and widths[0] == 32


def test_a_resumed_run_continues_its_log(logged: tuple[Path, Recorder]) -> None:
    _, recorder = logged
    assert [(run.id, run.step) for run in recorder.runs] == [("", 0), ("recorded", 6)]
    assert len(recorder.params) == 1 and recorder.params[0]["student.name"] == "tinynets:student"
    assert recorder.params[0]["stages.2.mixup"] == 0.2
    assert recorder.closed == [True]
    assert recorder.tables[0].rows[-1][0] == "finetune 2"


def test_tensorboard_has_the_same(logged: tuple[Path, Recorder]) -> None:
    out, recorder = logged
    events = accumulator.EventAccumulator(str(out / "tensorboard"), {"scalars": 0})
    events.Reload()
    scalars = [
        (event.step, name, event.value)
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    ]
    numbers = [each for each in recorder.numbers if not each[1].endswith("/images")]
    assert sorted((step, name) for step, name, _ in scalars) == sorted(
        (step, name) for step, name, _ in numbers
    )
    known = {(step, name): value for step, name, value in numbers}
    assert all(value == pytest.approx(known[step, name]) for step, name, value in scalars)
    assert [f"{stage}/images" for stage in ("teach", "distill", "finetune-1", "finetune-2")] == (
        events.Tags()["images"]
    )
    image = events.Images("teach/images")[0]
    # Sixteen images of 16 pixels, with two between them.
    assert (image.width, image.height) == (4 * 18 + 2, 4 * 18 + 2)
    texts = [events.Tensors(name)[0] for name in events.Tags()["tensors"]]
    assert any(b"finetune 2" in text.tensor_proto.string_val[0] for text in texts)


def test_stages_that_were_not_logged_are_made_up_for(
    logged: tuple[Path, Recorder], tiny: Tiny, tmp_path: Path
) -> None:
    _, before = logged
    with pytest.raises(Interrupted):
        compress.run(str(tiny.recipe), out=tmp_path / "run", callbacks=InterruptIn("distill", 2))
    recorder = Recorder()
    tracker = Tracker(LogTool("recorder", "re", recorder.open))
    compress.run(str(tiny.recipe), out=tmp_path / "run", callbacks=tracker)
    names = {(step, name) for step, name, _ in recorder.numbers if not name.endswith("/images")}
    assert names == {(s, name) for s, name, _ in before.numbers if not name.endswith("/images")}


@pytest.mark.slow
@given(
    st.lists(st.sampled_from([0, 0.5, 1, 2, 2.5]), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), max_size=4),
)
@settings(deadline=None)
def test_every_step_is_logged_once_wherever_a_run_is_cut(
    lengths: list[float], cuts: list[int]
) -> None:
    """A call of the run ends after so many epochs; the last one goes to the end."""
    recorder = Recorder()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        (out / "stages").mkdir()
        done: list[StageResult] = []
        for left in [*map(float, cuts), math.inf]:
            done = play(out, lengths, done, left, Tracker(LogTool("re", "re", recorder.open)))
    counted = Counter((step, name) for step, name, _ in recorder.numbers)
    assert set(counted.values()) == {1}
    epochs = [(step, name) for step, name in counted if name.endswith("/loss")]
    assert len(epochs) == sum(map(math.ceil, lengths))
    assert len([name for _, name in counted if name == "stage/val"]) == len(lengths)
    steps = [step for step, _, _ in recorder.numbers]
    assert steps == sorted(steps) and recorder.closed[-1] is True


def play(
    out: Path, lengths: list[float], done: list[StageResult], left: float, tracker: Tracker
) -> list[StageResult]:
    """Let a tracker see a call of a run that ends after `left` epochs; return what is done."""
    results = list(done)
    tracker.on_run_start(SimpleNamespace(out=out, recipe={}, results=tuple(results), plan=None))
    for number, epochs in list(enumerate(lengths))[len(results) :]:
        file = out / f"stages/{number + 1:02}-finetune.jsonl"
        history = [json.loads(line) for line in file.read_text().split()] if file.exists() else []
        tracker.on_stage_start(number + 1, len(lengths), f"finetune {number}", "")
        tracker.on_train_start(epochs, 10, 10 * len(history))
        while len(history) < math.ceil(epochs):
            if left <= 0:
                return results
            left -= 1
            history.append({"epoch": len(history) + 1, "loss": 1.0, "val": 0.5, "seconds": 1.0})
            file.write_text("\n".join(json.dumps(m, separators=(",", ":")) for m in history))
            tracker.on_epoch_end(epochs, history)
        result = StageResult(
            f"finetune {number}",
            "finetune",
            "net",
            9,
            9,
            0.5,
            1.0,
            f"stages/{file.stem}.pth",
            epochs=epochs,
        )
        results.append(result)
        tracker.on_stage_end(result, None, "")
    tracker.on_run_end(results, 9.0)
    return results


@pytest.mark.parametrize(
    "text",
    ["", "[]", "[" * 5000, '{"recorder": 1}', '{"recorder": {"id": "x", "step": "many"}}'],
)
def test_a_damaged_record_of_what_was_logged_begins_a_new_log(
    text: str, logged: tuple[Path, Recorder], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(logged[0], out)
    (out / LOGGED).write_text(text)
    recorder = Recorder()
    with Tracker(LogTool("recorder", "re", recorder.open)) as tracker:
        plan = SimpleNamespace(data=None)
        start = SimpleNamespace(out=out, recipe={}, results=(), plan=plan)
        tracker.on_run_start(start)  # type: ignore[arg-type]
    assert recorder.runs[0].id == "" and recorder.runs[0].step == 0


def test_a_tool_that_fails_is_left_out_and_the_run_goes_on(tmp_path: Path) -> None:
    recorder, lines = Recorder(broken=True), list[str]()
    (tmp_path / "stages").mkdir()
    tracker = Tracker(LogTool("remote", "re", recorder.open), lines.append)
    results = play(tmp_path, [2], [], math.inf, tracker)
    assert len(results) == 1 and len(lines) == 1
    assert "remote" in lines[0] and "server is away" in lines[0]


def test_a_tool_that_is_not_installed_is_refused_before_training(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = log_tool.importlib.util.find_spec
    monkeypatch.setattr(
        log_tool.importlib.util, "find_spec", lambda name: None if name == "wandb" else found(name)
    )
    out = tmp_path / "run"
    words = ["run", str(tiny.recipe), "--out", str(out), "--log", "tensorboard", "--log"]
    for name, remedy in (("wandb", "compress[wandb]"), ("tensorbord", "'tensorboard'")):
        refused = CliRunner().invoke(main, [*words, name])
        assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
        assert name in refused.stderr and remedy in refused.stderr
        with pytest.raises(compress.UserError, match=name):
            compress.track("tensorboard", name)
    assert not out.exists()


def test_a_tool_that_cannot_start_ends_the_run_before_it_trains(tiny: Tiny, tmp_path: Path) -> None:
    def refuse(run: LoggedRun) -> Recorder:
        raise PermissionError("log in first")

    with pytest.raises(compress.UserError, match=r"--log remote: log in first"):
        compress.run(
            str(tiny.recipe),
            out=tmp_path / "run",
            callbacks=Tracker(LogTool("remote", "re", refuse)),
        )
    assert not list((tmp_path / "run").glob("stages/*"))


def test_metrics_of_an_epoch_are_losses_or_known() -> None:
    assert get_tool("tensorboard").name == "tensorboard"
    assert "lr" in PLAIN_METRICS and "labels" not in PLAIN_METRICS


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["mlflow", "wandb", "trackio"])
def test_other_tools_have_the_same(
    tool: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(tool)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    # Trackio's store is chosen when it is imported.
    monkeypatch.setenv("TRACKIO_PROJECT", f"test-{secrets.token_hex(8)}")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    with pytest.raises(Interrupted), compress.track(tool)[0] as tracker:
        callbacks = [tracker, InterruptIn("distill", 2)]
        compress.run(str(tiny.recipe), out=out, callbacks=callbacks)
    compress.run(str(tiny.recipe), out=out, callbacks=compress.track(tool))
    results = read_results(out)[1]
    found = READERS[tool](out)
    assert found["stage/val"] == [result.val for result in results]
    assert found["stage/params"] == [result.params for result in results]
    distill = read_history(out, results[1])
    assert found["distill/loss"] == [metrics["loss"] for metrics in distill]


@pytest.mark.slow
def test_the_callback_in_the_documentation_works(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [block] = read_blocks(ROOT / "docs/tracking.md", "python")
    names: dict[str, Any] = {}
    exec(block.text, names)
    compress.run(str(tiny.recipe), out=tmp_path / "run", epochs=1, callbacks=names["PrintCuts"]())
    shown = capsys.readouterr().out
    assert "tinynets:teacher → tinynets:student" in shown and "prune 2: " in shown
