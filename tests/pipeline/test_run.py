"""Whole runs, from the command line and from Python: their files and their budgets."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny import (
    CLASSES,
    FILES,
    NAMES,
    Compress,
    Tiny,
    assert_same,
    contents,
    own_model,
    wait_for,
    write_folder,
)

import compress
from compress.data.open_dataset import open_dataset
from compress.data.photo import Framing
from compress.data.pool import PhotoPool, Pool, open_pool
from compress.data.source import Files, Pixels
from compress.models.cost import measure_cost
from compress.pipeline.plan import make_plan
from compress.pipeline.run_dir import read_results
from compress.recipe.budget import parse_amount
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError


def test_a_run_from_end_to_end(run: Compress, tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    done = run("run", tiny.recipe, "--out", out, "--device", "cpu", "--verbose")
    assert_same(out, finished)
    assert "\x1b" not in done.out and done.err == ""
    for words in (
        *NAMES,
        "Total params",
        "epoch 1/3",
        "2,988 parameters",
        f"\n{out / 'model.pth'}\n",
    ):
        assert words in done.out

    manifest = json.loads((out / "run.json").read_text())
    assert (
        manifest["status"] == "done"
        and manifest["seed"] == 0
        and manifest["budget"] == {"params": 3000}
    )
    assert manifest["data"] == {
        "name": f"folder:{tiny.data}",
        "checksum": open_dataset(f"folder:{tiny.data}", image_size=16).checksum,
    }
    assert (
        manifest["versions"]["torch"] == torch.__version__.partition("+")[0]
        and "torchinfo" in manifest["versions"]
    )
    assert "thread" in manifest["device"]
    assert (
        manifest["recipe"]["stages"][1]["scale"] == 0.5
        and manifest["recipe"]["student"]["name"] == "tinynets:student"
    )

    for entry, name, file in zip(manifest["stages"], NAMES, FILES, strict=True):
        kept = own_model(out / file)
        counted = measure_cost(kept.model, kept.input_size)
        assert (entry["name"], entry["checkpoint"]) == (name, file)
        assert (entry["params"], entry["macs"]) == (counted.params, counted.macs)
        assert 0 <= entry["val"] <= 1 and 0 <= entry["test"] <= 1 and entry["seconds"] >= 0
        assert (
            kept.input_size == (3, entry["image_size"], entry["image_size"])
            and kept.classes == CLASSES
        )
        lines = out / Path(file).with_suffix(".jsonl")
        epochs = (
            [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        )
        assert [line["epoch"] for line in epochs] == list(range(1, entry["epochs"] + 1))
        assert bool(epochs) == (entry["kind"] != "prune")
    assert [entry["image_size"] for entry in manifest["stages"]] == [16, 8, 8, 16, 16, 16]

    final = own_model(out / "model.pth")
    assert 2970 <= measure_cost(final.model, (3, 16, 16)).params <= 3000
    assert final.origin["stages"][-1]["test"] == manifest["stages"][-1]["test"] > 0.6
    assert final.origin["recipe"] == manifest["recipe"]
    assert {path.name for path in out.iterdir()} == {"run.json", "model.pth", "stages", ".lock"}
    assert not list(out.rglob("*.state"))


@pytest.mark.slow
def test_images_that_stay_on_the_disk_come_to_the_same(
    tiny: Tiny, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Pool] = []

    def streamed(images: Pixels | Files, framing: Framing, **options: Any) -> Pool:
        opened.append(open_pool(images, framing, memory_limit_bytes=0, workers=0, **options))
        return opened[-1]

    monkeypatch.setattr("compress.data.dataset.open_pool", streamed)
    compress.run(str(tiny.recipe), out=tmp_path / "run")
    assert [type(pool) for pool in opened] == [PhotoPool] * 3
    assert_same(tmp_path / "run", finished)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_damaged_image_is_found_before_training_starts(
    tiny: Tiny, tmp_path: Path, split: str
) -> None:
    folder = shutil.copytree(tiny.data, tmp_path / "images")
    shutil.copytree(folder / "test", folder / "val")
    bad = min((folder / split).rglob("*.png"))
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(compress.UserError, match=f"1 of .* cannot be read: {bad}"):
        compress.run(str(tiny.recipe), out=tmp_path / "run", data=f"folder:{folder}")
    assert not (tmp_path / "run").exists()


def test_again_when_done_shows_the_table_and_does_nothing(
    run: Compress, tiny: Tiny, finished: Path
) -> None:
    before = contents(finished)
    done = run("run", tiny.recipe, "--out", finished)
    assert contents(finished) == before
    assert (
        "finetune 2" in done.out
        and "epoch" not in done.out.replace("epochs", "")
        and "model.pth" in done.out
    )


def test_a_loss_that_explodes_names_its_stage(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny.variant("hot.toml", ("epochs = 2\nlr = 0.05", "epochs = 2\nlr = 1e30"))
    refused = run("run", recipe, "--out", tmp_path / "run", code=2)
    assert refused.err.startswith("error: finetune 1: the loss is not finite in epoch 1, with")
    assert "lower the stage's lr" in refused.err
    assert refused.err.count("\n") == 1
    assert [result.name for result in read_results(tmp_path / "run")[1]] == NAMES[:3]


@pytest.mark.slow
def test_the_test_split_decides_nothing(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    """Its files are checked before training, and scored at the end."""
    data, out = write_folder(tmp_path / "images"), tmp_path / "run"
    for path in (data / "test").rglob("*.png"):
        Image.new("RGB", (16, 16)).save(path)
    recipe = tiny.variant("blind.toml", (str(tiny.data), str(data)))
    run("run", recipe, "--out", out)
    blind, seeing = (read_results(each)[1] for each in (out, finished))
    assert [(each.name, each.val) for each in blind] == [(each.name, each.val) for each in seeing]
    # Of four classes, one is named for all of the images, which are equal.
    assert {each.test for each in blind} == {0.25} != {each.test for each in seeing}


@pytest.mark.slow
def test_progress_and_colours_in_a_terminal(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shown = run(
        "run", tiny.recipe, "--out", out, tty=True, env={"TERM": "xterm-256color", "COLUMNS": "140"}
    )
    wait_for(lambda: "model.pth" in shown.out.rsplit("all ", 1)[-1])
    assert (
        "\x1b[1m" in shown.out
        and "images/s" in shown.out
        and "epoch 1/3" in shown.out
        and "━" in shown.out
    )
    assert_same(out, finished)


@pytest.mark.slow
def test_torchvision_networks_by_flag_and_from_python_alike(
    run: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    recipe = tiny.variant(
        "torchvision.toml",
        *(
            ("epochs = 3", "epochs = 1"),
            ("epochs = 2", "epochs = 1"),
            ("samples = 64", "samples = 16"),
        ),
        ("lr = 5e-3\n\n", "lr = 5e-3\nscale = 0.5\n\n"),
    )
    flags = {
        "teacher": "resnet18",
        "student": "resnet18",
        "stem": "small",
        "budget": "2%",
        "max_images": 32,
    }
    run(
        "run",
        recipe,
        "--out",
        tmp_path / "a",
        *(word for key in flags for word in (f"--{key.replace('_', '-')}", flags[key])),
    )
    manifest, results = read_results(tmp_path / "a")
    assert manifest["recipe"]["student"] == asdict(ModelSpec("resnet18", "small"))
    assert manifest["recipe"]["teacher"] == asdict(ModelSpec("resnet18"))
    assert results[0].params == 11_178_564 and results[1].params == 11_170_884
    assert manifest["budget"]["params"] == int(0.02 * 11_170_884)
    # The same run, so it is done already.
    again = compress.run(str(recipe), out=tmp_path / "a", **flags)
    assert list(again.results) == results
    # A torchvision network is loaded without its specification.
    kept = compress.load(again.model)
    assert kept.network == ModelSpec("resnet18", "small")
    assert (
        0.99 * 0.02 * 11_170_884
        <= measure_cost(kept.model, kept.input_size).params
        <= 0.02 * 11_170_884
    )


def test_overrides_in_python(tiny: Tiny, finished: Path) -> None:
    read = load_recipe(
        str(tiny.recipe),
        {"teacher": {"name": "resnet34", "stem": "half"}, "student": "vgg11", "stem": None},
    )
    assert read.teacher == ModelSpec("resnet34", "half") and read.student == ModelSpec("vgg11")
    given = load_recipe(str(tiny.recipe), {"teacher": finished / FILES[0]}).teacher
    assert given == ModelSpec("tinynets:teacher", weights=str(finished / FILES[0]))
    again = compress.run(load_recipe(str(tiny.recipe), {"budget": "4k"}), budget=3000, out=finished)
    assert again.results[-1].name == "finetune 2"
    small = tiny.variant(
        "small.toml", ('name = "tinynets:student"', 'name = "resnet18"\nstem = "small"')
    )
    assert load_recipe(str(small), {"student": "tinynets:student"}).student == ModelSpec(
        "tinynets:student"
    )
    for name in ("resnet34", "resnet10_concat", "resnext29_32x8d", "efficientnet_b0"):
        assert load_recipe(str(small), {"student": name}).student == ModelSpec(name, "small")
    assert load_recipe(str(small), {"student": "densenet40_12"}).student == ModelSpec(
        "densenet40_12"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "budgets",
    [{"macs": "40%"}, {"file_size": "32KB"}, {"budget": "5k", "macs": "200k", "file_size": "40KB"}],
)
def test_budgets_of_every_kind_hold_at_the_end(
    tiny: Tiny, tmp_path: Path, budgets: dict[str, str]
) -> None:
    plan = make_plan(load_recipe(str(tiny.recipe), budgets))
    result = compress.run(str(tiny.recipe), out=tmp_path / "run", max_images=64, **budgets)
    kept = own_model(result.model)
    found = measure_cost(kept.model, kept.input_size)
    whole = measure_cost(own_model(tmp_path / "run" / FILES[1]).model, kept.input_size)
    limits = {
        "params": parse_amount(budgets.get("budget", "100M")).resolve(whole.params),
        "macs": parse_amount(budgets.get("macs", "9M"), "macs").resolve(whole.macs),
    }
    assert found.params <= limits["params"] and found.macs <= limits["macs"]
    size = result.model.stat().st_size
    assert size <= parse_amount(budgets.get("file_size", "9MB"), "bytes").resolve(0)
    assert (
        result.results[-1].bytes
        == (tmp_path / "run" / result.results[-1].checkpoint).stat().st_size
    )
    assert plan.limits.usage(found) > 0.9


@pytest.mark.parametrize("size", [20_000, 24_000, 28_000, 32_000, 36_000])
def test_a_file_lands_close_below_its_budget(tiny: Tiny, tmp_path: Path, size: int) -> None:
    result = compress.run(str(tiny.recipe), out=tmp_path / "run", max_images=64, file_size=size)
    assert 0.95 * size <= result.model.stat().st_size <= size


def test_the_least_file_that_a_plan_names_can_be_had(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a file of 9KB") as caught:
        make_plan(load_recipe(str(tiny.recipe), {"file_size": "9KB"}))
    least = int(str(caught.value).split()[-2].replace(",", ""))
    result = compress.run(str(tiny.recipe), out=tmp_path / "run", max_images=64, file_size=least)
    assert 0.9 * least <= result.model.stat().st_size <= least


@pytest.mark.slow
def test_pruning_by_weights_leaves_just_the_budget(
    run: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    recipe = tiny.variant(
        "weights.toml", ("samples = 64", 'samples = 64\nmode = "weights"\nimportance = "magnitude"')
    )
    out = tmp_path / "run"
    done = run("run", recipe, "--out", out, "--verbose")
    kept = own_model(out / "model.pth")
    nonzero = sum(
        int(p.count_nonzero()) if p.dim() > 1 else p.numel() for p in kept.model.parameters()
    )
    assert nonzero == 3000 and kept.sparse and "3,000 parameters" in done.out
    assert "Total params: 3,000\n" in done.out
    assert (
        "Total params: 3,000\n"
        in run("summary", "-w", out / "model.pth", "--builder", "tinynets:student").out
    )
    assert sum(p.numel() for p in kept.model.parameters()) == 14_548
    assert [result.params for result in read_results(out)[1][-2:]] == [3000, 3000]
    mixed = tiny.variant(
        "mixed.toml", ('kind = "prune"\nscale', 'kind = "prune"\nmode = "weights"\nscale')
    )
    assert "'channels' must come before" in run("run", mixed, "--out", tmp_path / "no", code=2).err
    assert (
        "parameters only"
        in run("run", recipe, "--macs", "5%", "--out", tmp_path / "no", code=2).err
    )
    assert not (tmp_path / "no").exists()


def test_a_recipe_without_pruning_must_fit_by_itself(tiny: Tiny, tmp_path: Path) -> None:
    stages = '[[stages]]\nkind = "distill"\nepochs = 1\n'
    recipe = tmp_path / "plain.toml"
    recipe.write_text(tiny.recipe.read_text().partition("[[stages]]")[0] + stages)
    with pytest.raises(UserError, match="no prune stage"):
        compress.run(str(recipe), out=tmp_path / "run")
    result = compress.run(str(recipe), out=tmp_path / "run", budget="15k")
    assert [result.name for result in result.results] == ["distill"] and result.model.is_file()
