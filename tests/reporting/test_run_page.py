"""The page of a run: the numbers of its files, whatever these hold."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from report_pages import change_manifest, read_page
from tiny import CLASSES, NAMES, TRAINED, Tiny

import compress
from compress.cli.main import main
from compress.deployment.bench import Timing
from compress.models import checkpoint
from compress.models.build import import_builder
from compress.pipeline.manifest import read_results
from compress.recipe.load import load_recipe
from compress.reporting.bench import Contender
from compress.reporting.bench_file import read_bench, write_bench
from compress.reporting.pages.facts import list_facts
from compress.runtime.errors import UserError
from compress.runtime.sealed_json import open_line

BUILDERS = ["tinynets:teacher", "tinynets:student"]
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>$\\frac{1}{0}$\u202e\x1b[2J'


def read_manifest(run: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((run / "run.json").read_text())
    return manifest


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def scored(
    finished: Path, mislabelled: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A page with pictures, of images of which some are wrong, and the lines that were logged."""
    lines: list[str] = []
    out = tmp_path_factory.mktemp("report") / "report.html"
    compress.report(finished, out, data=mislabelled, builders=BUILDERS, log=lines.append)
    return out, lines


def test_the_numbers_are_those_of_the_run(finished: Path, scored: tuple[Path, list[str]]) -> None:
    page, manifest = read_page(scored[0]), read_manifest(finished)
    last = manifest["stages"][-1]
    for stage in manifest["stages"]:
        assert stage["name"] in page.text
        assert f"{stage['params']:,}" in page.text and f"{100 * stage['test']:.2f}" in page.text
    assert f"{last['params'] / 3000:.1%}".replace("%", " %") in page.text
    assert str(finished / "run.json") in page.text and manifest["versions"]["torch"] in page.text
    for text in ("3,000 parameters", manifest["data"]["checksum"][:12], manifest["device"]):
        assert text in page.text
    for name in TRAINED:
        assert f"losses of {name}" in [svg.get("aria-label") for svg in page.find("svg")]
    assert "distillation" in page.text


def test_confusion_and_pictures_are_those_of_the_test_images(
    finished: Path, mislabelled: str, scored: tuple[Path, list[str]]
) -> None:
    page = read_page(scored[0])
    assert len(scored[1]) == 2 and "the teacher" in scored[1][1]
    model = compress.load(finished / "model.pth", import_builder(BUILDERS[1]))
    found = compress.evaluate(model, mislabelled, worst=24)
    wrong = found.images - round(found.top1 * found.images)
    assert wrong > 5 and f"top-1 {100 * found.top1:.2f} %" in page.text
    pictures = page.find("img")
    assert len(pictures) >= min(wrong, 24)
    assert all((each["src"] or "").startswith("data:image/png;base64,") for each in pictures)
    for image in found.worst:
        assert image.path and Path(image.path).name in page.text
    cells = re.findall(r"transparent\)\">(\d+)<", scored[0].read_text())
    assert sum(map(int, cells)) == found.images


def test_widths_are_those_before_and_after_each_cut(finished: Path, tmp_path: Path) -> None:
    page = read_page(compress.report(finished, tmp_path / "a.html", evaluate=False))
    built = compress.load(finished / "model.pth", import_builder(BUILDERS[1])).model
    bars = [each["title"] for each in page.find("div") if each.get("class") == "bar"]
    assert len(bars) == 4
    ends = [int((bar or "").split(" → ")[-1]) for bar in bars]
    assert ends == [
        len(m.weight) for m in built.modules() if hasattr(m, "weight") and m.weight.dim() > 1
    ]
    assert (bars[0] or "").startswith("16 → ") and (bars[0] or "").count("→") == 2


def test_all_that_files_name_is_text(copied: Path, tmp_path: Path) -> None:
    manifest = read_manifest(copied)
    stages = [stage | {"name": HOSTILE, "network": HOSTILE} for stage in manifest["stages"]]
    recipe = manifest["recipe"] | {"data": HOSTILE, "title": HOSTILE, HOSTILE: HOSTILE}
    versions = {HOSTILE: HOSTILE}
    change_manifest(copied, stages=stages, recipe=recipe, device=HOSTILE, versions=versions)
    for file in (copied / "stages").glob("*.jsonl"):
        lines = [open_line(line) | {HOSTILE: 0.5} for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    group = {"name": HOSTILE, "layers": [HOSTILE], "units": 4}
    group |= {"cuts": [dict(fraction=0.5, removed=2, accuracy=0.5, params=5, macs=5)]}
    analysis = dict(model=HOSTILE, network=HOSTILE, images=HOSTILE, importance=HOSTILE)
    analysis |= dict(accuracy=1, params=9, macs=9, fractions=[0.5], groups=[group])
    (copied / "analysis.json").write_text(json.dumps(analysis))
    named = copied.rename(tmp_path / "<b>&'")
    out = compress.report(named, tmp_path / "a.html", evaluate=False)
    page = read_page(out)
    assert page.text.count("<script>alert(1)</script>") > 10 and "<b>&'" in page.text
    assert page.find("b") == [] and not {"\x1b", "\u202e"} & set(out.read_text())
    assert "50.0" in page.text


def test_names_of_classes_and_images_are_text(tiny: Tiny, copied: Path, tmp_path: Path) -> None:
    names = ("<s>a", "b&amp;", "c'\"", "d\u202e")
    for file in (copied / "model.pth", copied / "stages/01-teach.pth"):
        known = compress.load(file, import_builder(BUILDERS["teach" not in file.name]))
        checkpoint.save(replace(known, classes=names), file)
    for split, (kind, name) in itertools.product(
        ("train", "test"), zip(CLASSES, names, strict=True)
    ):
        folder = tmp_path / "data" / split / name
        folder.mkdir(parents=True)
        for file in sorted((tiny.data / "test" / kind).iterdir())[:6]:
            shutil.copy(file, folder / f"<q>{file.name}")
    # Some of one class are called another.
    for file in sorted((tmp_path / "data/test" / names[0]).iterdir())[:3]:
        file.rename(tmp_path / "data/test" / names[1] / f"<s>{file.name}")
    data = f"folder:{tmp_path / 'data'}"
    page = read_page(compress.report(copied, tmp_path / "a.html", data=data, builders=BUILDERS))
    assert "<s><q>" in page.text and page.find("s") == page.find("q") == []
    assert page.text.count("<s>a") > 3 and "b&amp;" in page.text and "d\\u202e" in page.text


def test_what_is_missing_is_said_and_the_rest_is_there(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "stages")
    out = compress.report(copied, tmp_path / "a.html", data="folder:/nowhere", builders=BUILDERS)
    page = read_page(out)
    assert "/nowhere" in page.text
    assert "pictures are left out" in page.text and "Widths are left out" in page.text
    assert f"{100 * read_manifest(copied)['stages'][-1]['test']:.2f} %" in page.text


def test_a_teacher_that_cannot_be_built_is_only_left_out(
    copied: Path, mislabelled: str, tmp_path: Path
) -> None:
    lines: list[str] = []
    options = {"data": mislabelled, "builders": BUILDERS[1:], "log": lines.append}
    page = read_page(compress.report(copied, tmp_path / "a.html", **options))
    assert "comparison with the teacher" in lines[-1] and lines[-1] in page.text
    assert "Most wrong" in page.text and "final: " not in page.text


def test_a_run_under_way_has_a_page_of_its_stages_so_far(copied: Path, tmp_path: Path) -> None:
    stages = [stage | {"test": None} for stage in read_manifest(copied)["stages"][:3]]
    change_manifest(copied, status="running", stages=stages)
    page = read_page(compress.report(copied, tmp_path / "a.html"))
    assert "not finished" in page.text and f"{100 * stages[-1]['val']:.2f} %" in page.text
    assert NAMES[2] in page.text and NAMES[4] not in page.text
    change_manifest(copied, stages=[])
    with pytest.raises(UserError, match="no stage is finished"):
        compress.report(copied, tmp_path / "a.html")


def test_a_page_stays_small_however_long_the_run(copied: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for file in (copied / "stages").glob("*.jsonl"):
        lines = [
            dict(epoch=n, loss=2 * x, labels=x, other=x, val=x, seconds=n)
            for n, x in enumerate(random.random(20_000), start=1)
        ]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = read_page(compress.report(copied, tmp_path / "a.html", evaluate=False))
    assert "20,000" in page.text or "20000" in page.text


def test_a_benchmark_in_the_directory_is_shown(copied: Path, tmp_path: Path) -> None:
    rows = [
        Timing(copied / "model.pth", 1, batch, 0.001 * batch, 0.002, 1.5, 10) for batch in (1, 8)
    ]
    contender = Contender(copied / "model.pth", HOSTILE, 0.4321)
    write_bench(rows, [contender], copied / "bench.json")
    assert [row.accuracy for row in read_bench(copied / "bench.json").rows] == [0.4321, 0.4321]
    page = read_page(compress.report(copied, tmp_path / "a.html", evaluate=False))
    assert "1.50 ×" in page.text and "8.000" in page.text and "43.21" in page.text
    assert "earlier network" not in page.text
    os.utime(copied / "bench.json", (0, 0))
    page = read_page(compress.report(copied, tmp_path / "a.html", evaluate=False))
    assert "bench.json is older than model.pth" in page.text and "1.50 ×" in page.text
    (copied / "bench.json").write_text('{"rows": 1}')
    page = read_page(compress.report(copied, tmp_path / "a.html", evaluate=False))
    assert "bench.json: not a benchmark" in page.text and "1.50 ×" not in page.text


@pytest.mark.parametrize("line", ["{", "[]", '{"epoch": 1}', '{"epoch": "a"}', "1"])
def test_damaged_metrics_are_refused(line: str, copied: Path, tmp_path: Path) -> None:
    (copied / "stages/01-teach.jsonl").write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"01-teach\.jsonl: damaged"):
        compress.report(copied, tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


def test_the_command_replaces_an_older_page_and_nothing_else(
    finished: Path, tmp_path: Path
) -> None:
    out, other = tmp_path / "a.html", tmp_path / "b.html"
    words = ["report", str(finished), "--no-evaluate", "-o"]
    for _ in range(2):
        shown = CliRunner().invoke(main, [*words, str(out)])
        assert shown.exit_code == 0 and f"{out}: " in shown.stdout
    other.write_text("<p>mine")
    for path, message in (
        (other, "is not a report"),
        (tmp_path / "a.txt", r"\.html"),
        (tmp_path / "none" / "a.html", "existing folder"),
    ):
        refused = CliRunner().invoke(main, [*words, str(path)])
        assert refused.exit_code == 2 and re.search(message, refused.stderr)
    assert other.read_text() == "<p>mine"
    refused = CliRunner().invoke(main, ["report", str(tmp_path), "-o", str(out)])
    assert refused.exit_code == 2 and "no run, sweep or experiment" in refused.stderr


def test_the_recipe_in_it_is_that_of_the_run(finished: Path, tmp_path: Path) -> None:
    page = compress.report(finished, tmp_path / "a.html", evaluate=False)
    [text] = re.findall(r"<pre>(data = .*?)</pre>", page.read_text(), re.DOTALL)
    (tmp_path / "again.toml").write_text(text.replace("&#34;", '"'))
    assert load_recipe(str(tmp_path / "again.toml")) == load_recipe(str(finished / "run.json"))


def test_multiply_adds_of_other_images_are_not_compared(finished: Path) -> None:
    _, results = read_results(finished)
    last = replace(results[-1], image_size=16)
    for size, about in ((16, "1/10 of"), (8, "")):
        first = replace(results[0], macs=10 * last.macs, image_size=size)
        facts = {fact.name: fact.about for fact in list_facts([first, last], None)}
        assert facts["multiply-adds"][:7] == about


def test_the_size_is_that_of_the_file_that_was_scored(finished: Path) -> None:
    _, results = read_results(finished)
    int8 = replace(results[-1], kind="quantize", bytes=5_000)
    facts = {fact.name: fact.value for fact in list_facts([*results, int8], 20_000)}
    assert facts["int8 file"] == "5 KB" and "weights file" not in facts


def test_the_time_is_that_of_the_run(copied: Path, tmp_path: Path) -> None:
    manifest = read_manifest(copied)
    change_manifest(copied, seconds=7384)
    text = read_page(compress.report(copied, tmp_path / "a.html", evaluate=False)).text
    assert manifest["seconds"] != 7384 and text.count("2:03:04 h") == 2
