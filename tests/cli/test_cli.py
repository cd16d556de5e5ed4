"""The commands besides `run`: what they print, and how they refuse."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import CLASSES, Compress, Tiny

import compress
from compress.cli.main import main, predict_main
from compress.models import checkpoint
from compress.models.build import import_builder
from compress.recipe.load import shipped_recipes

OWN = ("--own", "tinynets:student")


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)])
def test_help(command: list[str]) -> None:
    shown = CliRunner().invoke(main, [*command, "--help"])
    assert shown.exit_code == 0 and shown.output.startswith("Usage:") and "\x1b" not in shown.output


def test_answers_that_need_no_torch_do_not_wait_for_it(tiny: Tiny) -> None:
    misspelt = tiny.variant("misspelt.toml", ("ema = 0.9", 'method = "fitnet"'))
    wrong = [
        ["--help"],
        ["recipes"],
        ["predict", "--help"],
        ["predict"],
        ["nonsense"],
        ["run", "defualt"],
        ["run", str(misspelt)],
        ["run", "--budget", "much"],
        ["run", "--stem", "tall"],
        ["run", str(tiny.recipe), "--limit", "-3"],
        ["run", "--data", "cifr10"],
        ["run", "--data", "folder:nowhere"],
        ["run", "--student", "none.pth"],
        ["run", "--teacher", "none.pth"],
        ["sweep", "--budgets", "1k,zz"],
        ["sweep", "--budgets", "1k,1000"],
        ["sweep", "--budgets", "1k", "--teacher", "none.pth"],
        ["experiment", "none.toml"],
        ["compare", "none.pth"],
        ["compare", __file__, "none.pth"],
        ["stages", "nowhere"],
        ["summary", "-w", "none.pth"],
        ["prune", "-w", "x.pth", "--budget", "much"],
        ["prune", "-w", "none.pth", "--budget", "1k"],
        ["prune", "-w", __file__, "--budget", "1k", "--importance", "talyor"],
        ["prune", "-w", __file__, "--budget", "1k", "--out", __file__],
        ["predict", "-w", "none.pth", "x.png"],
        ["predict", "-w", __file__, "--json"],
        ["predict", "-w", __file__, "--data", "cifr10"],
    ]
    code = f"""
import sys
from compress.cli.main import main
for words in {wrong!r}:
    try:
        main(words)
    except SystemExit as end:
        print(end.code)
    assert "torch" not in sys.modules, words
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    codes = re.findall(r"^\d$", done.stdout, re.MULTILINE)
    assert codes == ["0"] * 3 + ["2"] * (len(wrong) - 3)


def environment() -> dict[str, str]:
    root = Path(__file__).parent.parent
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    }


def test_python_m_compress(tiny: Tiny, tmp_path: Path) -> None:
    """One command from the very start, imports and all."""
    command = [sys.executable, "-m", "compress", "run", "nowhere.toml"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 2 and done.stderr.startswith("error: no recipe 'nowhere.toml'")
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_recipes_lists_what_is_shipped() -> None:
    lines = CliRunner().invoke(main, ["recipes"]).output.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes()) and all(
        len(line.split()) > 3 for line in lines
    )


def test_stages_shows_the_table_of_a_run(run: Compress, finished: Path, tmp_path: Path) -> None:
    shown = run("stages", finished).out
    entries = json.loads((finished / "run.json").read_text())["stages"]
    rows = [
        line for line in shown.splitlines() if re.match(r"│ (teach|distill|prune|finetune)", line)
    ]
    for row, entry in zip(rows, entries, strict=True):
        for cell in (
            entry["name"],
            entry["network"],
            f"{entry['params']:,}",
            f"{100 * entry['test']:.2f}",
        ):
            assert f" {cell} " in row
    assert "run.json" in run("stages", tmp_path, code=2).err
    (tmp_path / "run.json").write_text('{"stages": [{}]}')
    assert "damaged" in run("stages", tmp_path, code=2).err


def test_summary_counts_as_torchinfo_does(run: Compress, weights: Path, finished: Path) -> None:
    shown = run("summary", "-w", weights).out
    assert (
        "Total params: 11,170,884" in shown
        and "resnet18, stem small" in shown
        and "4 classes" in shown
    )
    assert len(run("summary", "-w", weights, "--depth", 3).out) > len(shown)
    entry = json.loads((finished / "run.json").read_text())["stages"][-1]
    assert (
        f"Total params: {entry['params']:,}"
        in run("summary", "-w", finished / "model.pth", *OWN).out
    )


HUNGRY = """
import tinynets
import torch


def teacher(num_classes):
    network = tinynets.teacher(num_classes)
    network.register_forward_pre_hook(lambda module, inputs: {what} if module.training else None)
    return network


def raised(error):
    raise error
"""
GPU, OTHER = (
    "torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')",
    "RuntimeError('sizes differ')",
)


@pytest.mark.parametrize(
    ("name", "what"),
    [("cpu", "torch.empty(2**60)"), ("gpu", f"raised({GPU})"), ("python", "bytearray(2**62)")],
)
def test_no_memory_left_is_one_line(
    run: Compress, tiny: Tiny, tmp_path: Path, name: str, what: str
) -> None:
    (tiny.root / f"hungry_{name}.py").write_text(HUNGRY.format(what=what))
    ended = run(
        "run", tiny.recipe, "--teacher", f"hungry_{name}:teacher", "--out", tmp_path / "run", code=2
    )
    assert (
        ended.err.startswith("error: out of memory; with a smaller `batch`")
        and ended.err.count("\n") == 1
    )


def test_an_error_of_the_program_keeps_its_traceback(
    start: Compress, tiny: Tiny, tmp_path: Path
) -> None:
    (tiny.root / "faulty.py").write_text(HUNGRY.format(what=f"raised({OTHER})"))
    ended = start("run", tiny.recipe, "--teacher", "faulty:teacher", "--out", tmp_path / "run")
    assert ended.wait() == 1 and "RuntimeError: sizes differ" in ended.err


def test_predict_shows_a_table(run: Compress, tiny: Tiny, finished: Path) -> None:
    images = [tiny.data / "test" / kind / f"{number:03}.png" for number, kind in enumerate(CLASSES)]
    shown = run("predict", "-w", finished / "model.pth", *OWN, "--top", 2, *images).out
    for image in compress.predict(
        checkpoint.load(finished / "model.pth", __import__("tinynets").student), images, top=2
    ):
        for name, probability in image.top:
            assert f"{name} {probability:.1%}" in shown
    assert "\x1b" not in shown


def test_predict_for_programs(run: Compress, tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    table = tmp_path / "out.csv"
    folder = tiny.data / "test" / "cross"
    found = json.loads(
        run("predict", "-w", finished / "model.pth", *OWN, "--json", "--csv", table, folder).out
    )
    assert len(found) == 20 and all(set(row) == {"image", "top"} for row in found)
    kept = checkpoint.load(finished / "model.pth", builder=import_builder("tinynets:student"))
    ours = compress.predict(kept, [row["image"] for row in found])
    assert [p.top[0][0] for p in ours] == [row["top"][0]["class"] for row in found]
    for row in found:
        shares = [one["probability"] for one in row["top"]]
        assert (
            len(shares) == 3
            and shares == sorted(shares, reverse=True)
            and 0 < sum(shares) <= 1.00001
        )
    rows = list(csv.DictReader(table.open()))
    assert [(r["image"], r["class"]) for r in rows] == [
        (r["image"], t["class"]) for r in found for t in r["top"]
    ]


def test_one_unreadable_image_and_the_rest_go_on(
    run: Compress, tiny: Tiny, weights: Path, tmp_path: Path
) -> None:
    bad, good = tmp_path / "[bold]bad[x].png", tiny.data / "test" / "blob" / "000.png"
    bad.write_text("no image")
    done = run("predict", "-w", weights, bad, good, "--json", code=1)
    rows = json.loads(done.out)
    assert rows[0]["error"] and rows[0]["top"] == [] and len(rows[1]["top"]) == 3
    assert done.err.count("\n") == 1 and done.err.startswith(f"{bad}: ")
    shown = run("predict", "-w", weights, f"../{bad.name}", good, code=1).out
    assert f"│ ../{bad.name} " in shown and "unreadable: " in shown


def test_predict_without_images_scores_the_test_split(run: Compress, finished: Path) -> None:
    shown = run("predict", "-w", finished / "model.pth", *OWN).out
    right = [int(n) for n in re.findall(r"│ +(\d+) │ +20 │", shown)]
    entry = json.loads((finished / "run.json").read_text())["stages"][-1]
    assert len(right) == 4 and sum(right) / 80 == entry["test"] and f"{entry['test']:.2%}" in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "folder:nowhere"], "nowhere"),
        (["--json"], "go with IMAGES"),
        (["--csv", "x.csv"], "go with IMAGES"),
        (["--top", "0", "x.png"], "--top"),
        (["--bottom", "x.png"], "--bottom"),
        (["--device", "tpu", "x.png"], "tpu"),
        (["--own", "nowhere:net", "x.png"], "nowhere"),
    ],
)
def test_predict_refuses(run: Compress, weights: Path, flags: list[str], words: str) -> None:
    refused = run("predict", "-w", weights, *flags, code=2)
    assert words in refused.err and refused.out == ""


def test_a_network_of_ones_own_is_not_imported_on_the_files_word(
    run: Compress, finished: Path
) -> None:
    refused = run("predict", "-w", finished / "model.pth", "x.png", code=2)
    assert refused.err.count("\n") == 1 and "tinynets:student" in refused.err


def test_predict_is_a_command_of_its_own(
    tiny: Tiny, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tiny.data / "test" / "blob" / "000.png"
    monkeypatch.setattr(sys, "argv", ["predict", "-w", str(weights), "--json", str(image)])
    with pytest.raises(SystemExit) as end:
        predict_main()
    assert end.value.code == 0 and json.loads(capsys.readouterr().out)[0]["image"] == str(image)


def test_a_reader_that_stops_reading_gets_no_traceback(weights: Path) -> None:
    """As with `compress summary … | head -1`."""
    command = f"{sys.executable} -m compress summary -w {weights} --depth 5 | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment())
    assert done.stdout.count("\n") == 1 and "Traceback" not in done.stderr
