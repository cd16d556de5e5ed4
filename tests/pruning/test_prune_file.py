"""`compress prune`: one cut of a weights file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pruning_networks import build_network
from tiny import CLASSES, Compress, Tiny

import compress
from compress.models import checkpoint
from compress.models.build import build
from compress.models.checkpoint import Checkpoint
from compress.models.cost import measure_cost
from compress.pruning.prune_file import prune_file
from compress.recipe.budget import Amount, Axis, parse_amount
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError

WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.fixture(scope="module")
def source() -> Checkpoint:
    """A ResNet18 of 11 million parameters and 10 classes."""
    classes = tuple(f"class {i}" for i in range(10))
    model, spec = build_network("resnet18", "small"), ModelSpec("resnet18", "small")
    return Checkpoint(model, spec, classes, (3, 16, 16), (0.5,) * 3, (0.5,) * 3, "made up")


def parse(**texts: str) -> dict[Axis, Amount]:
    axes: tuple[Axis, ...] = ("params", "macs", "bytes")
    return {axis: parse_amount(texts[axis], axis) for axis in axes if axis in texts}


def test_the_file_records_the_cut_and_loads_again(source: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "small.pth"
    before, after = prune_file(source, parse(params="10%"), out, importance="lamp")
    loaded = compress.load(out)
    assert before == measure_cost(source.model, source.input_size)
    assert after == measure_cost(loaded.model, loaded.input_size)
    assert 0.99 * before.params // 10 <= after.params <= before.params // 10
    assert loaded.classes == source.classes
    assert loaded.origin["pruned"] == {"budget": "10%", "mode": "channels", "importance": "lamp"}
    assert not loaded.sparse


@pytest.mark.slow
def test_every_budget_holds(source: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "small.pth"
    before, after = prune_file(source, parse(params="2M", macs="20%", bytes="9MB"), out)
    assert after.params <= 2_000_000
    assert after.macs <= before.macs // 5
    assert out.stat().st_size <= 9_000_000
    usages = after.params / 2_000_000, after.macs / (before.macs / 5), out.stat().st_size / 9e6
    assert max(usages) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("size", [100_000, 400_000])
def test_the_file_lands_on_its_size(source: Checkpoint, tmp_path: Path, size: int) -> None:
    out = tmp_path / "small.pth"
    prune_file(source, parse(bytes=str(size)), out)
    assert 0.99 * size <= out.stat().st_size <= size
    with pytest.raises(UserError, match="nothing to prune"):
        prune_file(compress.load(out), parse(bytes=str(size)), tmp_path / "x.pth")


def test_the_smallest_file_named_in_the_message_is_within_reach(tmp_path: Path) -> None:
    source, out = compress.load(WEIGHTS / "sweep" / "fashion-mnist-10k.pth"), tmp_path / "a.pth"
    with pytest.raises(UserError, match=r"20KB.*out of reach.* [\d,]+ bytes$") as caught:
        prune_file(source, parse(bytes="20KB"), out)
    smallest = int(str(caught.value).split()[-2].replace(",", ""))
    # The text of the budget is recorded in the file, and may make it a few bytes longer.
    prune_file(source, parse(bytes=str(smallest)), out)
    assert 0.99 * smallest <= out.stat().st_size <= smallest
    with pytest.raises(UserError, match="out of reach"):
        prune_file(source, parse(bytes=str(smallest - 1)), tmp_path / "x.pth")
    prune_file(source, parse(bytes="60KB"), tmp_path / "y.pth")
    assert 58_000 <= (tmp_path / "y.pth").stat().st_size <= 60_000


@pytest.mark.parametrize("percent", [30, 99])
def test_a_percentage_of_bytes_is_one_of_the_file(tmp_path: Path, percent: int) -> None:
    file, out = WEIGHTS / "fashion-mnist-100k.pth", tmp_path / "small.pth"
    prune_file(compress.load(file), parse(bytes=f"{percent}%"), out)
    budget = percent / 100 * file.stat().st_size
    assert 0.95 * budget <= out.stat().st_size <= budget


@pytest.mark.slow
def test_random_channels_are_the_same_each_time(source: Checkpoint, tmp_path: Path) -> None:
    states = []
    for name in ("one.pth", "other.pth"):
        torch.seed()
        prune_file(source, parse(params="10%"), tmp_path / name, importance="random")
        states.append(compress.load(tmp_path / name).model.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_single_weights_are_pruned_to_exactly_the_budget(tmp_path: Path) -> None:
    source, out = compress.load(WEIGHTS / "fashion-mnist-100k.pth"), tmp_path / "sparse.pth"
    _, after = prune_file(source, parse(params="50k"), out, mode="weights")
    loaded = compress.load(out)
    assert after.params == 50_000
    assert measure_cost(loaded.model, loaded.input_size, loaded.sparse).params == 50_000
    assert loaded.sparse
    for budgets in (parse(macs="50%"), parse(params="50k", macs="50%")):
        with pytest.raises(UserError, match=r"'weights'.*parameters only"):
            prune_file(source, budgets, tmp_path / "x.pth", mode="weights")


def test_a_sparse_network_is_not_pruned_by_channels(source: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "x.pth"
    with pytest.raises(UserError, match="weight by weight"):
        prune_file(replace(source, sparse=True), parse(params="100k"), out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("budget", "importance", "words"),
    [
        ("20M", "magnitude", "nothing to prune"),
        ("1k", "magnitude", "out of reach"),
        ("10%", "magnitud", "did you mean 'magnitude'"),
        ("10%", "taylor", "needs data"),
    ],
)
def test_a_cut_that_is_refused_writes_no_file(
    source: Checkpoint, tmp_path: Path, budget: str, importance: str, words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        prune_file(source, parse(params=budget), tmp_path / "x.pth", importance=importance)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_prints_sizes_and_refuses_to_overwrite(
    run: Compress, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small.pth"
    budgets = ("--budget", "10%", "--macs", "15%", "--file-size", "5MB")
    printed = run("prune", "-w", weights, *budgets, "--out", out).out
    pruned = compress.load(out)
    cost = measure_cost(pruned.model, pruned.input_size)
    assert f"11,170,884 to {cost.params:,} parameters" in printed
    assert f"10%: {cost.params:,} parameters\n" in printed
    assert f"15%: {cost.macs:,} multiply-adds\n" in printed
    assert f"5MB: {out.stat().st_size:,} bytes\n" in printed
    before = out.read_bytes()
    refused = run("prune", "-w", weights, "--budget", "5%", "--out", out, code=2).err
    assert str(out) in refused
    assert refused.count("\n") == 1
    assert out.read_bytes() == before


def test_the_command_logs_a_budget_that_single_channels_are_too_coarse_for(
    run: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    spec, file, out = ModelSpec("tinynets:student"), tmp_path / "tiny.pth", tmp_path / "small.pth"
    normalization = (0.5,) * 3
    checkpoint.save(
        Checkpoint(
            build(spec, 4).eval(),
            spec,
            CLASSES,
            (3, 16, 16),
            normalization,
            normalization,
            "made up",
        ),
        file,
    )
    printed = run("prune", "-w", file, "--builder", spec.name, "--budget", 480, "--out", out).out
    assert "lands at 91.7% of the budget: the smallest step left is 42 parameters\n" in printed


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--budget", "1k"], "out of reach"), (["--budget", "10%", "--importance", "lam"], "'lamp'")],
)
def test_the_command_refuses_in_one_line(
    run: Compress, weights: Path, tmp_path: Path, flags: list[str], words: str
) -> None:
    out = tmp_path / "x.pth"
    refused = run("prune", "-w", weights, "--out", out, *flags, code=2).err
    assert words in refused
    assert refused.count("\n") == 1
    assert not out.exists()


def test_the_command_does_not_replace_a_dangling_link(
    run: Compress, weights: Path, tmp_path: Path
) -> None:
    (link := tmp_path / "small.pth").symlink_to(tmp_path / "gone")
    refused = run("prune", "-w", weights, "--budget", "10%", "--out", link, code=2).err
    assert str(link) in refused
    assert refused.count("\n") == 1
    assert link.is_symlink()
    assert not link.exists()


@pytest.mark.slow
def test_the_command_names_a_path_that_cannot_be_written(
    run: Compress, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for out in (Path("/proc/nowhere/small.pth"), tmp_path / "file" / "small.pth"):
        refused = run("prune", "-w", weights, "--budget", "5M", "--out", out, code=2).err
        assert f"{out}: cannot be written" in refused
        assert refused.count("\n") == 1
