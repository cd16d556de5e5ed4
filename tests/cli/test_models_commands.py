"""`summary`, `prune`, `adopt` and `compare`: what they print and refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny import CLASSES, Compress, Tiny

from compress.cli.main import main
from compress.models.build import build
from compress.models.checkpoint import load
from compress.models.cost import measure_cost
from compress.recipe.model_spec import ModelSpec

BUILDER = ("--builder", "tinynets:student")


@pytest.mark.slow
def test_summary_counts_as_torchinfo_does(run: Compress, weights: Path, finished: Path) -> None:
    shown = run("summary", "-w", weights).out
    assert "Total params: 11,170,884" in shown
    assert "resnet18, stem small" in shown and "4 classes" in shown
    assert len(run("summary", "-w", weights, "--depth", 3).out) > len(shown)
    entry = json.loads((finished / "run.json").read_text())["stages"][-1]
    shown = run("summary", "-w", finished / "model.pth", *BUILDER).out
    assert f"Total params: {entry['params']:,}" in shown


@pytest.mark.slow
def test_prune_says_what_the_network_costs(run: Compress, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.pth"
    shown = run("prune", "-w", weights, "--budget", "60k", "--file-size", "500KB", "--out", out).out
    checkpoint = load(out)
    cost = measure_cost(checkpoint.model, checkpoint.input_size)
    assert cost.params <= 60_000 and f"11,170,884 to {cost.params:,} parameters" in shown
    assert f"budget 60k: {cost.params:,} parameters" in shown
    assert f"budget 500KB: {out.stat().st_size:,} bytes" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"no budget given.*--budget, --macs, --file-size"),
        (["--budget", "much"], "'much'"),
        (["--budget", "5k", "--importance", "talyor"], "'talyor'.*'taylor'.*known: magnitude"),
        (["--budget", "5k", "--out", __file__], "already exists.*--out"),
    ],
)
def test_prune_refuses(weights: Path, words: list[str], message: str) -> None:
    refused = CliRunner().invoke(main, ["prune", "-w", str(weights), *words])
    assert refused.exit_code == 2 and re.match(f"error: .*{message}.*\n$", refused.stderr)


@pytest.mark.parametrize("command", ["export", "quantize", "card", "summary"])
def test_an_exported_file_is_refused_as_weights(command: str, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"x")
    refused = CliRunner().invoke(main, [command, "-w", str(file)])
    assert refused.exit_code == 2
    assert re.match("error: .*an exported file; pass the weights file.*\n$", refused.stderr)


@pytest.mark.slow
def test_adopt_passes_on_how_images_were_normalized(
    run: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    torch.save(build(ModelSpec("resnet18", "small"), 4).state_dict(), tmp_path / "mine.pt")
    flags = ("--network", "resnet18", "--stem", "small", "--data", f"folder:{tiny.data}")
    flags += ("--image-size", "20", "--mean", "0.5", "--std", "0.2,0.3,0.4")
    shown = run("adopt", tmp_path / "mine.pt", *flags, "--out", tmp_path / "mine.pth").out
    adopted = load(tmp_path / "mine.pth")
    assert adopted.network == ModelSpec("resnet18", "small") and adopted.classes == CLASSES
    assert adopted.input_size == (3, 20, 20)
    assert (adopted.mean, adopted.std) == ((0.5, 0.5, 0.5), (0.2, 0.3, 0.4))
    assert re.search(r"mine\.pth: \d+\.\d\d % ", shown) and "--mean, --std" in shown


@pytest.mark.parametrize("text", ["white", "0.5,", "0.4;0.4"])
def test_adopt_refuses_a_mean_that_is_no_number(text: str) -> None:
    words = ["adopt", __file__, "--network", "resnet18", "--data", "mnist", "--mean", text]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 2 and "--mean" in refused.stderr and repr(text) in refused.stderr


@pytest.mark.slow
def test_compare_shows_files_side_by_side(run: Compress, untrained: Path, tmp_path: Path) -> None:
    dense, sparse = tmp_path / "dense.pth", tmp_path / "sparse.pth"
    cut = ("prune", "-w", untrained, *BUILDER, "--budget", "5k")
    run(*cut, "--out", dense)
    run(*cut, "--mode", "weights", "--out", sparse)
    shown = run("compare", dense, sparse, untrained, *BUILDER).out
    assert "5,000 not zero" in shown and "14,548" in shown
    assert len(re.findall(r"[\d.]+ ms", shown)) == 3
    pruned, zeroed, original = re.findall(r"([\d,.]+) M │", shown)
    # Zeros are multiplied as well.
    assert pruned != zeroed == original


def test_compare_names_a_file_that_is_missing(weights: Path, tmp_path: Path) -> None:
    missing = tmp_path / "none.pth"
    refused = CliRunner().invoke(main, ["compare", str(weights), str(missing)])
    assert refused.exit_code == 2 and refused.stdout == ""
    assert refused.stderr == f"error: {missing}: no such file\n"
