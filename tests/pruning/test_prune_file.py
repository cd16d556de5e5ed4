"""`compress prune`: one cut of a weights file, what it lands on, and how it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import CLASSES, Compress, Tiny

import compress
from compress.models import checkpoint
from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pruning.prune_file import prune_file
from compress.recipe.budget import Amount, Axis, parse_amount
from compress.recipe.model_spec import ModelSpec


def test_prune_cuts_once(run: Compress, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.pth"
    said = run("prune", "-w", weights, "--budget", "10%", "--out", out).out
    kept = compress.load(out)
    params = measure_cost(kept.model, kept.input_size).params
    assert (
        0.99 * 1_117_088 <= params <= 1_117_088 and f"11,170,884 to {params:,} parameters" in said
    )
    assert kept.classes == CLASSES and kept.origin["pruned"]["budget"] == "10%"
    before = out.read_bytes()
    assert (
        "is there already"
        in run("prune", "-w", weights, "--budget", "5%", "--out", out, code=2).err
    )
    assert out.read_bytes() == before


def test_a_budget_that_single_channels_are_too_coarse_for_is_said(
    run: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    network, file, out = (
        ModelSpec("tinynets:student"),
        tmp_path / "tiny.pth",
        tmp_path / "small.pth",
    )
    kept = Checkpoint(
        build(network, 4).eval(), network, CLASSES, (3, 16, 16), (0.5,) * 3, (0.5,) * 3, "made up"
    )
    checkpoint.save(kept, file)
    said = run("prune", "-w", file, "--builder", network.name, "--budget", 480, "--out", out).out
    assert "lands at 91.7% of the budget: the smallest step left is 42 parameters\n" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--budget", "20M"], "nothing to prune"),
        (["--budget", "1k"], "out of reach"),
        (["--budget", "10%", "--importance", "magnitud"], "did you mean 'magnitude'"),
        (["--budget", "10%", "--importance", "taylor"], "needs data"),
    ],
)
def test_a_cut_that_cannot_be_made(
    run: Compress, weights: Path, tmp_path: Path, flags: list[str], words: str
) -> None:
    refused = run("prune", "-w", weights, "--out", tmp_path / "x.pth", *flags, code=2)
    assert (
        refused.err.count("\n") == 1 and words in refused.err and not (tmp_path / "x.pth").exists()
    )


def test_random_channels_are_the_same_each_time(weights: Path, tmp_path: Path) -> None:
    states = []
    for name in ("one.pth", "other.pth"):
        torch.seed()
        budgets: dict[Axis, Amount] = {"params": parse_amount("10%")}
        prune_file(compress.load(weights), budgets, tmp_path / name, importance="random")
        states.append(compress.load(tmp_path / name).model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_cut_does_not_take_the_place_of_a_link_to_nothing(
    run: Compress, weights: Path, tmp_path: Path
) -> None:
    (link := tmp_path / "small.pth").symlink_to(tmp_path / "gone")
    refused = run("prune", "-w", weights, "--budget", "10%", "--out", link, code=2)
    assert refused.err.count("\n") == 1 and "is there already" in refused.err
    assert link.is_symlink() and not link.exists()


@pytest.mark.parametrize("size", [100_000, 400_000])
def test_prune_lands_on_a_file_size(
    run: Compress, weights: Path, tmp_path: Path, size: int
) -> None:
    out = tmp_path / "small.pth"
    run("prune", "-w", weights, "--size", size, "--out", out)
    assert 0.99 * size <= out.stat().st_size <= size
    compress.load(out)
    again = run("prune", "-w", out, "--size", size, "--out", tmp_path / "x.pth", code=2)
    assert "nothing to prune" in again.err


def test_the_least_file_that_is_named_can_be_had(run: Compress, tmp_path: Path) -> None:
    whole, out = (
        Path(__file__).parent.parent / "weights" / "sweep" / "fashion-mnist-10k.pth",
        tmp_path / "small.pth",
    )
    refused = run("prune", "-w", whole, "--size", "20KB", "--out", out, code=2).err
    assert "a file of 20KB: out of reach, the least is " in refused
    least = int(refused.split()[-2].replace(",", ""))
    run("prune", "-w", whole, "--size", least, "--out", out)
    assert 0.99 * least <= out.stat().st_size <= least
    run("prune", "-w", whole, "--size", least - 1, "--out", tmp_path / "x.pth", code=2)
    run("prune", "-w", whole, "--size", "60KB", "--out", tmp_path / "y.pth")
    assert 58_000 <= (tmp_path / "y.pth").stat().st_size <= 60_000


@pytest.mark.parametrize("share", ["30%", "99%"])
def test_a_share_of_a_file_is_of_the_file_as_it_is(
    run: Compress, tmp_path: Path, share: str
) -> None:
    whole, out = (
        Path(__file__).parent.parent / "weights" / "fashion-mnist-100k.pth",
        tmp_path / "small.pth",
    )
    run("prune", "-w", whole, "--size", share, "--out", out)
    due = float(share[:-1]) / 100 * whole.stat().st_size
    assert 0.95 * due <= out.stat().st_size <= due


def test_prune_says_what_came_of_each_budget(run: Compress, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.pth"
    said = run(
        "prune", "-w", weights, "--budget", "2M", "--macs", "20%", "--size", "9MB", "--out", out
    ).out
    kept = compress.load(out)
    reached = measure_cost(kept.model, kept.input_size)
    assert f"budget 2M: {reached.params:,} parameters\n" in said
    assert f"budget 20%: {reached.macs:,} multiply-adds\n" in said
    assert f"budget 9MB: {out.stat().st_size:,} bytes\n" in said


def test_a_place_that_cannot_be_written_is_one_line(
    run: Compress, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for out in (Path("/proc/nowhere/small.pth"), tmp_path / "file" / "small.pth"):
        refused = run("prune", "-w", weights, "--budget", "5M", "--out", out, code=2)
        assert (
            refused.err.startswith(f"error: {out}: cannot be written there (")
            and refused.err.count("\n") == 1
        )


def test_what_is_pruned_by_weights_is_not_cut_by_channels(
    run: Compress, weights: Path, tmp_path: Path
) -> None:
    sparse, out = tmp_path / "sparse.pth", tmp_path / "x.pth"
    checkpoint.save(replace(checkpoint.load(weights), sparse=True), sparse)
    refused = run("prune", "-w", sparse, "--budget", "100k", "--out", out, code=2)
    assert (
        refused.err.count("\n") == 1
        and "pruned weight by weight" in refused.err
        and not out.exists()
    )
