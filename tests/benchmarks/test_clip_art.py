"""benchmarks/clip_art.py on a small library."""

from __future__ import annotations

import importlib
from pathlib import Path

from click.testing import CliRunner
from PIL import Image


def draw(file: Path, color: str, side: int = 8) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", (side, side), color).save(file)


def test_drawings_of_one_word_are_in_one_split_and_those_of_two_classes_are_left_out(
    scripts: None, tmp_path: Path
) -> None:
    library, out = tmp_path / "png", tmp_path / "clip-art"
    for i, color in enumerate(("red", "green", "blue", "yellow", "white", "black")):
        draw(library / "food" / "fruit" / f"{color}_{i}.png", color)
        draw(library / "food" / f"{color}_bw.png", color, side=200)
    draw(library / "animals" / "crab.png", "orange")
    draw(library / "food" / "crab.png", "orange")
    draw(library / "transportation" / "roadsigns" / "stop.png", "purple")

    script = importlib.import_module("clip_art")
    done = CliRunner().invoke(script.main, [str(out), "--source", str(library)])

    assert done.exit_code == 0, done.output
    written = sorted(out.rglob("*.png"))
    assert len(written) == 12
    assert {file.parent.name for file in written} == {"food"}
    words: dict[str, set[str]] = {}
    for file in written:
        words.setdefault(file.name.split("_")[0], set()).add(file.parts[-3])
        with Image.open(file) as image:
            assert max(image.size) <= 96
    assert all(len(splits) == 1 for splits in words.values())
    assert {split for splits in words.values() for split in splits} == {"train", "test"}
