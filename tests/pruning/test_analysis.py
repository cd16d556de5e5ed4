"""Analysis: what it says about a cut is what the cut network does."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_networks import BLOCK_KINDS, build_from_blocks
from tiny import Tiny, own_model
from torch import nn

import compress
from compress.cli.main import main
from compress.models.cost import measure_cost
from compress.pruning.analysis import analyze_groups, count_removed
from compress.pruning.importance import score_units
from compress.pruning.sensitivity import read_sensitivity
from compress.pruning.structure import Structure
from compress.runtime.errors import UserError

EXAMPLE = torch.zeros(1, 3, 12, 12)
IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
BUILDER = ("--builder", "tinynets:student")


@torch.no_grad()
def score(model: nn.Module) -> float:
    """A number that tells apart any two networks with other logits."""
    return float(model(IMAGES).softmax(1)[:, 0].mean())


@settings(max_examples=8, deadline=None)
@given(
    st.lists(st.sampled_from(BLOCK_KINDS), min_size=1, max_size=2),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
)
def test_a_prediction_is_what_the_same_cut_really_gives(
    kinds: list[str], fraction: float, chosen: int
) -> None:
    model = build_from_blocks(kinds)
    structure = Structure(copy.deepcopy(model), EXAMPLE)
    found, failed = analyze_groups(structure, score, (fraction,))
    assert not failed and len(found) == len(structure.groups)
    torch.testing.assert_close(structure.model.state_dict(), model.state_dict(), rtol=0, atol=0)

    cut = Structure(copy.deepcopy(model), EXAMPLE)
    number = chosen % len(cut.groups)
    [effect] = next(g for g in found if g.name == cut.groups[number].name).cuts
    units = len(cut.groups[number])
    best = score_units("magnitude", cut)[number].argsort(descending=True, stable=True)
    kept = [torch.arange(count) for count in cut.unit_counts()]
    kept[number] = best[: units - effect.removed]
    if effect.removed:
        cut.prune(kept)
    before, after = measure_cost(model, (3, 12, 12)), measure_cost(cut.model, (3, 12, 12))
    assert (effect.params, effect.macs) == (before.params - after.params, before.macs - after.macs)
    assert effect.accuracy == pytest.approx(score(cut.model), abs=1e-6)


@given(st.integers(1, 5000), st.floats(0.001, 0.999))
def test_a_cut_removes_a_unit_and_leaves_one(units: int, fraction: float) -> None:
    removed = count_removed(units, fraction)
    assert min(1, units - 1) <= removed < units
    assert abs(removed - fraction * units) <= 1


def test_the_command_writes_what_it_shows(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    file, table, heat = (tmp_path / name for name in ("a.json", "a.csv", "a.svg"))
    outs = [word for path in (file, table, heat) for word in ("--out", str(path))]
    words = ["analyze", "-w", str(finished / "model.pth"), *BUILDER, "--remove", "50,25%", *outs]
    shown = CliRunner().invoke(main, [*words, "--json"])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout).items() <= json.loads(file.read_text()).items()
    found = read_sensitivity(file)
    assert found.fractions == (0.25, 0.5)
    assert found.params == json.loads((finished / "run.json").read_text())["stages"][-1]["params"]
    assert [group.layers[0] for group in found.groups] == ["0.0", "1.0", "2.0"]
    assert len(table.read_text().splitlines()) == 1 + 2 * len(found.groups)
    assert f"<!-- {found.groups[-1].layers[0]} -->" in heat.read_text()
    again = CliRunner().invoke(main, [*words[:5], "--images", "9"])
    assert "0.0" in again.stdout and " 8 validation images" in again.stdout


def test_images_of_an_unknown_split_are_not_called_validation_images(untrained: Path) -> None:
    known = own_model(untrained)
    assert "seed" not in known.origin
    found = compress.analyze(known, fractions=[0.5], images=8, importance="magnitude")
    assert "validation" not in found.images and "8 images of folder:" in found.images


@pytest.mark.slow
def test_time_that_is_saved_is_predicted(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    words = ["-w", str(finished / "model.pth"), *BUILDER, "--remove", "75", "--out", str(out)]
    shown = CliRunner().invoke(main, ["analyze", *words, "--runtime", "torch", "--threads", "1"])
    assert shown.exit_code == 0 and " ms (torch, threads: 1)" in shown.stdout.replace("\n", "")
    found = read_sensitivity(out)
    assert found.nanoseconds and all(
        cut.nanoseconds is not None for g in found.groups for cut in g.cuts
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--remove", "0"], "'0'.*percentages"),
        (["--remove", "half"], "'half'.*percentages"),
        (["--importance", "talyor"], "'talyor'.*'taylor'"),
        (["--runtime", "onx"], "'onx'.*'onnx'"),
        (["--out", "analysis.txt"], "analysis.txt.*json"),
        (["--out", __file__ + ".json", "--data", "photos"], "'photos'"),
    ],
)
def test_the_command_refuses(weights: Path, words: list[str], message: str) -> None:
    refused = CliRunner().invoke(main, ["analyze", "-w", str(weights), *words])
    assert refused.exit_code == 2 and refused.stdout == ""
    assert re.search(message, refused.stderr)


@pytest.mark.parametrize("text", ["[]", '{"groups": 1}', "no json"])
def test_another_file_is_no_analysis(text: str, tmp_path: Path) -> None:
    (tmp_path / "analysis.json").write_text(text)
    with pytest.raises(UserError, match=r"analysis\.json"):
        read_sensitivity(tmp_path / "analysis.json")
