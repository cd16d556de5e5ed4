"""Sweeps: budgets in a chain, resuming, and what is refused before anything is trained."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import Compress, Tiny, wait_for
from torch import Tensor

from compress.experiments.sweep import SweepResult, _continue_from, sweep, sweep_table
from compress.pipeline.events import RunEvents
from compress.pipeline.run import RunResult
from compress.pipeline.run_dir import StageResult, read_results
from compress.recipe.load import load_recipe, override_recipe
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError

BRIEF = (("epochs = 3", "epochs = 1"), ("epochs = 2", "epochs = 1"))
FINETUNED = StageResult(
    "finetune 1", "finetune", "mobilenet_v2", 9, 9, val=0.9, seconds=1.0, checkpoint=""
)
TAUGHT = replace(
    FINETUNED,
    name="teach",
    kind="teach",
    network="resnet34",
    val=0.8,
    checkpoint="stages/01-teach.pth",
)


@pytest.fixture(scope="module")
def brief(tiny: Tiny) -> Path:
    """A recipe of one epoch a stage."""
    return tiny.variant("brief-sweep.toml", *BRIEF)


def read_state(file: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return state


def assert_same_state(one: Path, other: Path) -> None:
    ours, theirs = read_state(one), read_state(other)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.slow
def test_each_budget_continues_from_the_one_above(
    run: Compress, brief: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    command = ("sweep", brief, "--budgets", "1500,6k,3k", "--out", out, "--max-images", 64)
    shown = run(*command).out
    runs = {name: read_results(out / name)[1] for name in ("6k", "3k", "1500")}
    for results, limit in zip(runs.values(), (6000, 3000, 1500), strict=True):
        assert results[-1].params <= limit
    # Every run is taught by the best network before it.
    candidates = [(runs["6k"][0].val, out / "6k/stages/01-teach.pth")]
    for name, results in runs.items():
        best = max(candidates, key=lambda pair: pair[0])[1]
        assert_same_state(best, out / name / "stages/01-teach.pth")
        candidates.append((results[-1].val, out / name / "model.pth"))
    assert_same_state(out / "6k/model.pth", out / "3k/stages/02-distill.pth")
    assert_same_state(out / "3k/model.pth", out / "1500/stages/02-distill.pth")

    rows = re.findall(r"^\| (\w+) \| ([\d,]+) ", (out / "sweep.md").read_text(), re.M)
    assert rows == [(name, f"{results[-1].params:,}") for name, results in runs.items()]
    with Image.open(out / "sweep.png") as picture:
        assert picture.format == "PNG"
    assert shown.count("●") == 6 and "parameters, log" in shown and "multiply-adds, log" in shown
    assert {entry.name for entry in out.iterdir()} == {*runs, "sweep.md", "sweep.png"}
    again = run(*command).out
    assert "epoch" not in again and again.count("●") == 6


class CacheWatch(RunEvents):
    """Records the files of a sweep's logits cache, with their times, after each stage."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.written: set[tuple[Path, int]] = set()

    def on_stage_end(self, result: StageResult, before: StageResult | None, table: str) -> None:
        files = [file for file in self.out.rglob("view-*") if file.is_file()]
        self.written |= {(file, file.stat().st_mtime_ns) for file in files}


@pytest.mark.slow
def test_the_logits_of_a_teacher_are_computed_once_for_all_budgets(
    tiny: Tiny, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    # Only the last stage distills, from two views. No network becomes better than the teacher.
    path = tiny.variant("once.toml", ("ema = 0.9", "ema = 0.9\nviews = 2"))
    keys = {"max_images": 64, "stages.2.alpha": 0.0, "stages.4.alpha": 0.0, "finetune.lr": 1e-9}
    watch = CacheWatch(out)
    sweep(load_recipe(str(path), keys), ["6k", "3k", "1500"], out=out, events=watch)
    assert len(watch.written) == 2
    assert {entry.name for entry in out.iterdir()} == {"6k", "3k", "1500", "sweep.md", "sweep.png"}


@pytest.mark.parametrize(
    ("teacher_val", "name", "file"),
    [(0.8, "mobilenet_v2", "model.pth"), (0.95, "resnet34", "stages/01-teach.pth")],
)
def test_the_best_network_teaches_as_what_it_is(
    tmp_path: Path, teacher_val: float, name: str, file: str
) -> None:
    """The stem and the head that the recipe gives its own teacher do not matter."""
    results = (replace(TAUGHT, val=teacher_val), FINETUNED)
    keys = _continue_from([SweepResult("100k", RunResult(tmp_path / "model.pth", results))])
    recipe = load_recipe("cifar10-kd-resnet152", {"student": "mobilenet_v2"})
    recipe = override_recipe(recipe, {"budget": "30k"} | keys)
    assert recipe.teacher == ModelSpec(name, weights=str(tmp_path / file))
    assert recipe.student.weights == str(tmp_path / "model.pth")


def test_what_teaches_is_chosen_by_the_scores_of_the_files_that_teach(tmp_path: Path) -> None:
    """A last stage that quantizes scores the int8 file, which does not teach."""
    for int8, best in ((0.7, "mobilenet_v2"), (0.95, "resnet34")):
        taught = replace(TAUGHT, val=0.8 if int8 < 0.8 else 0.92)
        quantized = replace(FINETUNED, name="quantize", kind="quantize", val=int8)
        run = RunResult(tmp_path / "model.pth", (taught, FINETUNED, quantized))
        assert _continue_from([SweepResult("100k", run)])["teacher"]["name"] == best


def test_a_sweep_without_a_teacher_leaves_the_teacher_alone(tmp_path: Path) -> None:
    result = RunResult(tmp_path / "model.pth", (FINETUNED,))
    keys = _continue_from([SweepResult("100k", result)])
    assert keys == {"student.weights": str(tmp_path / "model.pth")}


def test_the_table_has_a_row_for_each_budget(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(bytes(2_400))
    final = replace(FINETUNED, params=99_938, macs=13_150_000, test=0.9492)
    table = sweep_table([SweepResult("100k", RunResult(tmp_path / "model.pth", (final,)))])
    assert table.as_markdown().splitlines()[-1] == (
        "| 100k | 99,938 | 13.15 M | 2 KB | 90.00 | 94.92 |"
    )
    int8 = replace(final, kind="quantize", bytes=1_000)
    table = sweep_table([SweepResult("100k", RunResult(tmp_path / "model.pth", (final, int8)))])
    assert "1 KB" in table.rows[0]
    masks = replace(final, metric="mIoU")
    table = sweep_table([SweepResult("100k", RunResult(tmp_path / "model.pth", (masks,)))])
    assert table.headings[-2:] == ["val mIoU %", "test mIoU %"]


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        ("6k,50", "out of reach"),
        ("6k,6000", "each once"),
        ("6k,5%", "5%"),
        ("6k,", "''"),
        ("6k,5950", "5950"),
    ],
)
def test_budgets_that_cannot_be_met_are_refused_at_once(
    tiny: Tiny, tmp_path: Path, budgets: str, words: str
) -> None:
    out = tmp_path / "sweep"
    with pytest.raises(UserError) as caught:
        sweep(load_recipe(str(tiny.recipe)), budgets.split(","), out=out)
    assert words in str(caught.value) and "\n" not in str(caught.value) and not out.exists()


def test_a_budget_for_parameters_is_added_to_the_other_budgets(tiny: Tiny, tmp_path: Path) -> None:
    recipe = load_recipe(str(tiny.recipe), {"budget": "4k", "macs": "1k"})
    with pytest.raises(UserError, match=r"6k parameters and 1k multiply-adds.*out of reach"):
        sweep(recipe, ["6k"], out=tmp_path / "sweep")


def test_networks_with_single_weights_pruned_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    keys = {"prune.mode": "weights", "prune.importance": "magnitude"}
    with pytest.raises(UserError, match=r"mode 'weights'.*'channels'"):
        sweep(load_recipe(str(tiny.recipe), keys), ["6k", "3k"], out=tmp_path / "sweep")


@pytest.mark.slow
def test_a_killed_sweep_resumes_with_the_same_results(
    start: Compress, run: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    recipe = tiny.variant(
        "longer.toml", ("epochs = 3\nlr = 0.05", "epochs = 12\nlr = 0.05"), *BRIEF
    )
    command = ("sweep", recipe, "--budgets", "6k, 3k", "--max-images", 64, "--out")
    run(*command, undisturbed)
    victim = start(*command, killed)
    # Until it trains the network of the second budget.
    wait_for(lambda: list(killed.glob("3k/stages/04-finetune*.jsonl")))
    victim.send(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    rows = re.findall(r"^\| (\w+) \| [\d,]+ ", (killed / "sweep.md").read_text(), re.M)
    assert rows == ["6k"]
    # The same directory, spelled in another way.
    run(*command, undisturbed / ".." / "killed")
    for budget in ("6k", "3k"):
        assert_same_state(undisturbed / budget / "model.pth", killed / budget / "model.pth")
    assert {entry.name for entry in killed.iterdir()} == {"6k", "3k", "sweep.md", "sweep.png"}


@pytest.mark.slow
def test_other_files_in_the_directory_are_left_alone(
    run: Compress, brief: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    mine = out / "logits_cache" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    command = ("sweep", brief, "--max-images", 64)
    run(*command, "--budgets", "6k,3k", "--out", out, "--fresh")
    assert mine.read_text() == "mine" and (out / "sweep.md").is_file()
    refused = run(*command, "--budgets", "6k,3k", "--out", mine, code=2)
    assert f"{mine}: is a file" in refused.err
    (out / "1500").mkdir()
    (out / "1500" / "mine.txt").write_text("mine")
    refused = run(*command, "--budgets", "6k,3k,1500", "--out", out, code=2)
    # Before the first budget.
    assert f"{out / '1500'}: not empty" in refused.err and "budget" not in refused.out


@pytest.mark.slow
def test_a_sweep_with_other_budgets_is_refused_before_anything_is_trained(
    run: Compress, brief: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    command = ("sweep", brief, "--max-images", 64, "--out", out, "--budgets")
    run(*command, "6k,3k")
    refused = run(*command, "9k,6k,3k", code=2)
    assert f"{out / '6k'}: " in refused.err and "not from 9k" in refused.err
    assert refused.err.count("\n") == 1 and not (out / "9k").exists()
