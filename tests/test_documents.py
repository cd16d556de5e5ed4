"""The experiments in docs/experiments: what they ask of networks can be done."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from tiny import Tiny

from compress.data.dataset import open_dataset
from compress.experiments import experiment as experiments
from compress.models.build import build
from compress.pipeline.teachers import check_methods
from compress.recipe.schema import Train
from compress.runtime.errors import UserError

DOCUMENTS = Path(__file__).parent.parent / "docs" / "experiments"
built = cache(build)  # the same networks in row after row


def check_rows(file: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> int:
    """See of every row of `file` whether its networks can learn as it says; how many rows differ in that.

    Networks that are given are other runs' to make: one that is still to be trained stands in for such a teacher.
    """
    monkeypatch.setattr("compress.pipeline.teachers.build", built)
    learning = {}
    for recipe in (cell.recipe for cell in experiments.plan(file, out=tiny.root / "planned")[1]):
        given = recipe.weights and all(stage.kind != "teach" for stage in recipe.stages)
        stages = (Train(kind="teach", epochs=1), *recipe.stages) if given else recipe.stages
        learning[recipe.teacher, recipe.student, stages] = recipe
    data = open_dataset(f"folder:{tiny.data}", size=32)
    for (*_, stages), recipe in learning.items():
        check_methods(recipe, stages, data)
    return len(learning)


@pytest.mark.parametrize("file", sorted(DOCUMENTS.glob("*.toml")), ids=lambda file: file.stem)
def test_what_the_experiments_in_the_documents_ask_of_networks_can_be_done(
    file: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_rows(file, tiny, monkeypatch)


@pytest.mark.parametrize(
    ("name", "before", "after", "words"),
    [
        (
            "stagewise-shares-cifar10",
            '"fitnets"',
            '"fitnet"',
            "not 'fitnet' (did you mean 'fitnets'?)",
        ),
        (
            "stagewise",
            '"relu", "layer1"',
            '"stem", "layer1"',
            "taps: the teacher has no layer 'stem'",
        ),
        (
            "stagewise",
            "taps = []",
            "temperature = 4.0",
            "method 'labels' looks at no layers: leave taps out",
        ),
        (
            "alpha",
            "stop_at_teacher = false",
            "stop_at_teacher = true",
            "has no answers to stop_at_teacher here",
        ),
    ],
)
def test_and_what_cannot_is_seen(
    name: str,
    before: str,
    after: str,
    words: str,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = (DOCUMENTS / f"{name}.toml").read_text()
    (tmp_path / "wrong.toml").write_text(text.replace(before, after))
    with pytest.raises(UserError, match=re.escape(words)):
        check_rows(tmp_path / "wrong.toml", tiny, monkeypatch)
