"""The stage that quantizes: what a run delivers, how large it is, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import Tiny, own_model

import compress
from compress.deployment.load_model import load_model
from compress.pipeline import stages
from compress.pipeline.run_dir import read_results
from compress.quantization.quantize import Int8Network
from compress.recipe.load import load_recipe
from compress.reporting.evaluation import score_test_split
from compress.reporting.pages.seen import see_images
from compress.runtime.errors import UserError

STAGE = '\n[[stages]]\nkind = "quantize"\nfinetune = false\n'
LAST = "epochs = 3\nlr = 0.05\nema = 0.9\n"
SHORT = (("epochs = 3", "epochs = 1"), ("epochs = 2", "epochs = 1"))


def with_stage(tiny: Tiny, name: str, budget: str, keys: str = "") -> Path:
    end = (LAST, LAST + STAGE + keys)
    return tiny.variant(name, end, ("budget = 3000", budget), *SHORT)


@pytest.mark.slow
def test_file_budget_is_that_of_the_int8_file(tiny: Tiny, tmp_path: Path) -> None:
    recipe = with_stage(tiny, "int8.toml", 'file_size = "11KB"')
    result = compress.run(str(recipe), out=tmp_path / "run")
    file = tmp_path / "run" / "model.int8.onnx"
    assert 9_900 <= file.stat().st_size <= 11_000
    last, before = result.results[-1], result.results[-2]
    assert last.kind == "quantize" and last.bytes == file.stat().st_size
    assert last.params == before.params
    scored = load_model(file)
    correct, total = score_test_split(scored)
    assert last.test == pytest.approx(float(correct.sum() / total.sum()))
    assert scored.network.name == "tinynets:student"
    # A report shows what the delivered file does.
    seen = see_images(tmp_path / "run", result.results)
    assert f"top-1 {100 * last.test:.2f} %" in seen.about
    assert own_model(tmp_path / "run" / "model.pth").input_size == scored.input_size
    # The same command does nothing more.
    assert compress.run(str(recipe), out=tmp_path / "run").results == result.results


@pytest.mark.slow
def test_run_that_loses_too_much_stops_and_resumes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_stage(tiny, "drop.toml", "budget = 3000", "max_drop = 1")
    original = stages.quantize_network

    def worse(*arguments: object, **options: object) -> Int8Network:
        made = original(*arguments, **options)  # type: ignore[arg-type]
        return replace(made, val=made.float_val - 0.05)

    monkeypatch.setattr(stages, "quantize_network", worse)
    with pytest.raises(UserError, match=r"quantize: int8 loses 5\.00 points.*max_drop = 1"):
        compress.run(str(recipe), out=tmp_path / "run")
    assert read_results(tmp_path / "run")[1][-1].kind == "finetune"
    monkeypatch.undo()
    lenient = with_stage(tiny, "drop.toml", "budget = 3000", "max_drop = 100")
    with pytest.raises(UserError, match="another recipe"):
        compress.run(str(lenient), out=tmp_path / "run")


def test_quantize_comes_last_and_once(tiny: Tiny) -> None:
    twice = with_stage(tiny, "twice.toml", "budget = 3000", STAGE)
    with pytest.raises(UserError, match="'quantize' must be the last"):
        load_recipe(str(twice))


@pytest.mark.slow
def test_int8_file_that_is_out_of_reach_is_refused_before_training(
    tiny: Tiny, tmp_path: Path
) -> None:
    recipe = with_stage(tiny, "little.toml", 'file_size = "3KB"')
    with pytest.raises(UserError, match=r"int8 file of 3KB is out of reach.*[\d,]+ bytes"):
        compress.run(str(recipe), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
