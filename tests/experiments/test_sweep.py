"""Sweeps through the command line: budgets in a chain, a table, a picture; and weights files side by side."""

from __future__ import annotations

import io
import itertools
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import Compress, Tiny
from torch import Tensor, nn

from compress.cli.terminal import scatter
from compress.deployment.latency import measure_latencies
from compress.experiments.sweep import PUBLISHED, Point, _given, drawn, sweep
from compress.pipeline import train_stage as learning
from compress.pipeline.run import Result
from compress.pipeline.run_dir import StageResult, read_results
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec
from compress.training.trainer import Forward, teach


def test_each_budget_goes_on_from_the_one_above(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    flags = ("sweep", tiny.recipe, "--budgets", "1500,6k,3k", "--out", out, "--limit", 64)
    said = run(*flags).out
    runs = {name: read_results(out / name)[1] for name in ("6k", "3k", "1500")}
    assert all(
        r.params <= limit
        for r, limit in zip([r[-1] for r in runs.values()], (6000, 3000, 1500), strict=True)
    )
    done = [
        (runs["6k"][0].val, out / "6k/stages/01-teach.pth"),
        *((runs[n][-1].val, out / n / "model.pth") for n in runs),
    ]
    for number, name in enumerate(runs):
        best = max(done[: number + 1], key=lambda pair: pair[0])[1]
        teacher, heard = (
            torch.load(file, weights_only=True)
            for file in (best, out / name / "stages/01-teach.pth")
        )
        assert all(
            torch.equal(teacher["state_dict"][key], heard["state_dict"][key])
            for key in heard["state_dict"]
        )
    start = torch.load(out / "3k" / "stages" / "02-distill.pth", weights_only=True)["state_dict"]
    above = torch.load(out / "6k" / "model.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(start[key], above[key]) for key in above)
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) ", (out / "sweep.md").read_text(), re.M)
    assert rows == [(name, f"{results[-1].params:,}") for name, results in runs.items()]
    with Image.open(out / "sweep.png") as picture:
        assert (
            picture.format == "PNG"
            and len(set(picture.convert("RGB").resize((50, 20)).getdata())) > 5
        )
    assert said.count("●") == 6 and all(
        f"{axis}, logarithmic" in said for axis in ("parameters", "multiply-adds")
    )
    again = run(*flags).out  # nothing is done twice
    assert "epoch" not in again and again.count("●") == 6


def test_the_teacher_answers_once_for_all_budgets(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []

    def counted(model: nn.Module, size: int | None = None) -> Forward:
        answer = teach(model, size)
        return lambda images: shown.append(len(images)) or answer(images)

    monkeypatch.setattr(learning, "teach", counted)
    recipe = tiny.variant(
        "once.toml", ("ema = 0.9", "ema = 0.9\nviews = 2")
    )  # both rounds hear the same two views
    keys: dict[str, Any] = {"max_images": 64, "stages.2.alpha": 0.0}  # and are all that listens
    keys["finetune.lr"] = 1e-9  # none becomes a better teacher
    sweep(recipe, ["6k", "3k", "1500"], out=tmp_path / "sweep", **keys)
    assert sum(shown) == 2 * 64
    assert not list((tmp_path / "sweep").rglob("*answers*"))


def test_what_teaches_is_the_network_that_it_was_and_no_other(tmp_path: Path) -> None:
    """Whatever the recipe says of the teacher's stem and head."""
    best = StageResult(
        "finetune 1", "finetune", "mobilenet_v2", 9, 9, val=0.9, seconds=1.0, checkpoint=""
    )
    first = replace(
        best,
        name="teach",
        kind="teach",
        network="resnet34",
        val=0.8,
        checkpoint="stages/01-teach.pth",
    )
    given = _given([Point("100k", Result(tmp_path / "model.pth", (first, best)))])
    recipe = load_recipe(
        "fashion-mnist-best", {"student": "mobilenet_v2", **given, "budget": "30k"}
    )
    assert recipe.teacher == ModelSpec("mobilenet_v2") and recipe.weights == recipe.start == str(
        tmp_path / "model.pth"
    )
    taught = _given(
        [Point("100k", Result(tmp_path / "model.pth", (replace(first, val=0.95), best)))]
    )
    assert taught["teacher"] == {"name": "resnet34"} and taught["weights"] == str(
        tmp_path / "stages/01-teach.pth"
    )


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        ("6k,50", "out of reach"),
        ("6k,6000", "each once"),
        ("6k,5%", "numbers"),
        ("6k,", "''"),
        ("6k,5950", "both"),
    ],
)
def test_a_sweep_that_cannot_end_does_not_begin(
    run: Compress, tiny: Tiny, tmp_path: Path, budgets: str, words: str
) -> None:
    refused = run("sweep", tiny.recipe, "--budgets", budgets, "--out", tmp_path / "sweep", code=2)
    assert (
        words in refused.err and refused.err.count("\n") == 1 and not (tmp_path / "sweep").exists()
    )


def test_killed_it_goes_on_and_comes_to_the_same(
    start: Compress, run: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    recipe = tiny.variant("longer.toml", ("epochs = 3\nlr = 0.05", "epochs = 60\nlr = 0.05"))
    flags = ("sweep", recipe, "--budgets", "6k, 3k", "--limit", 64, "--out")
    run(*flags, whole)
    victim = start(*flags, killed)
    while not list(
        killed.glob("3k/stages/04-finetune*.jsonl")
    ):  # in the middle of the second budget
        assert victim.process.is_alive(), victim.err
        time.sleep(0.01)
    victim.send(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert re.findall(r"^\| (\w+) \| [\d,]+ ", (killed / "sweep.md").read_text(), re.M) == [
        "6k"
    ]  # as far as it came
    run(*flags, whole / ".." / "killed")  # spelt in another way
    for budget in ("6k", "3k"):
        ended, went_on = (
            torch.load(out / budget / "model.pth", weights_only=True) for out in (whole, killed)
        )
        assert all(
            torch.equal(ended["state_dict"][key], went_on["state_dict"][key])
            for key in ended["state_dict"]
        )
    assert {entry.name for entry in killed.iterdir()} == {"6k", "3k", "sweep.md", "sweep.png"}


def test_what_lies_beside_the_runs_is_left_alone(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    out, mine = tmp_path / "sweep", tmp_path / "sweep" / "answers" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    run("sweep", tiny.recipe, "--budgets", "6k,3k", "--limit", 64, "--out", out, "--fresh")
    assert mine.read_text() == "mine" and (out / "sweep.md").is_file()
    assert "is a file" in run("sweep", tiny.recipe, "--budgets", "6k,3k", "--out", mine, code=2).err
    (out / "1500").mkdir()
    (out / "1500" / "mine.txt").write_text("mine")
    refused = run(
        "sweep", tiny.recipe, "--budgets", "6k,3k,1500", "--limit", 64, "--out", out, code=2
    )
    assert "not empty" in refused.err and "budget" not in refused.out  # before the first


def test_a_chain_that_was_begun_otherwise_is_refused_before_anything_trains(
    run: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    run("sweep", tiny.recipe, "--budgets", "6k,3k", "--out", out, "--limit", 64)
    refused = run(
        "sweep", tiny.recipe, "--budgets", "9k,6k,3k", "--out", out, "--limit", 64, code=2
    )
    assert (
        "6k: begun from no other budget, not from 9k" in refused.err and not (out / "9k").exists()
    )
    sparse = tiny.variant(
        "sparse.toml", ("samples = 64", 'samples = 64\nmode = "weights"\nimportance = "magnitude"')
    )
    assert (
        "cannot be pruned further"
        in run("sweep", sparse, "--budgets", "6k,3k", "--out", tmp_path / "s", code=2).err
    )


def test_points_in_a_terminal_lie_where_they_should() -> None:
    lines = scatter(
        [(10, 50, "a"), (100, 70, "b"), (1000, 90, "c")], "parameters", width=21, height=5
    ).splitlines()
    places = {
        line[i + 2]: (row, i - line.index("│") - 1)
        for row, line in enumerate(lines)
        if (i := line.find("●")) > 0
    }
    assert places == {"c": (0, 20), "b": (2, 10), "a": (4, 0)}
    assert scatter([(10, 50, "one of a very long name")], "parameters").count("●") == 1
    with_others = scatter(
        [(10, 50, "a")], "parameters", [(1000, 90), (100, 70)], width=21, height=5
    ).splitlines()
    assert [line.find("×") - line.find("│") - 1 for line in with_others[:3:2]] == [20, 10]


def test_names_and_figures_lie_in_the_picture_and_off_each_other() -> None:
    points = []
    for budget, params, macs, test in (
        ("1M", 999_572, 114_148_628, 0.9409),  # the one below it is better
        ("100k", 99_922, 11_332_834, 0.9446),
        ("30k", 29_956, 3_125_212, 0.9365),
        ("10k", 9_888, 2_481_240, 0.9271),
    ):
        result = StageResult(
            "finetune 5",
            "finetune",
            "resnet18",
            params,
            macs,
            val=test,
            seconds=1.0,
            checkpoint="",
            test=test,
        )
        points.append(Point(budget, Result(Path("model.pth"), (result,))))
    figure = drawn(points, PUBLISHED["fashion-mnist"])
    figure.savefig(io.BytesIO(), format="png")
    for axes in figure.axes:
        line = axes.transData.transform_path(axes.lines[0].get_path()).interpolated(100).vertices
        frame = axes.get_window_extent()
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) >= 3
        for box in boxes:
            assert (
                frame.x0 <= box.x0
                and box.x1 <= frame.x1
                and frame.y0 <= box.y0
                and box.y1 <= frame.y1
            )
            assert box.count_contains(line) == 0
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_files_side_by_side(run: Compress, finished: Path, tiny: Tiny, tmp_path: Path) -> None:
    dense, sparse = tmp_path / "dense.pth", tmp_path / "sparse.pth"
    source = tiny_resnet(tiny, tmp_path)
    run("prune", "-w", source, "--budget", "50k", "--out", dense)
    run("prune", "-w", source, "--budget", "50k", "--mode", "weights", "--out", sparse)
    said = run("compare", dense, sparse, source).out
    assert "50,000 not zero" in said and len(re.findall(r"[\d.]+ ms", said)) == 3
    cut, zeroed, whole = [
        float(macs.replace(",", "")) for macs in re.findall(r"([\d,.]+) M │", said)
    ]
    assert cut < zeroed == whole  # zeros are multiplied as well
    assert dense.stat().st_size < 0.02 * sparse.stat().st_size
    assert "no such file" in run("compare", dense, tmp_path / "none.pth", code=2).err


def test_a_busy_machine_slows_all_that_are_compared_alike() -> None:
    calls = 0

    class Busy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 2)

        def forward(self, images: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            time.sleep(0.004 if calls < 70 else 0)  # of 110
            return self.head(images.mean((2, 3)))  # type: ignore[no-any-return]

    one, other = measure_latencies([(Busy(), (3, 4, 4)), (Busy(), (3, 8, 8))])
    assert 0.5 < one / other < 2


def tiny_resnet(tiny: Tiny, tmp_path: Path) -> Path:
    from compress.data.dataset import open_dataset
    from compress.models import checkpoint
    from compress.models.build import build
    from compress.models.checkpoint import Checkpoint
    from compress.recipe.model_spec import ModelSpec

    data = open_dataset(f"folder:{tiny.data}", image_size=16)
    network = ModelSpec("resnet18", "small")
    kept = Checkpoint(
        build(network, 4).eval(), network, data.classes, (3, 16, 16), data.mean, data.std, data.name
    )
    checkpoint.save(kept, tmp_path / "whole.pth")
    return tmp_path / "whole.pth"
