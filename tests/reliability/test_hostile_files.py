"""Whatever JSON, TOML and tables hold: one line, soon, and no memory to speak of."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile import VALUES, replaced
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.cli.load import read_names
from compress.data.csv_files import open_csv
from compress.deployment.description import parse_description
from compress.experiments.experiment import plan_experiment
from compress.experiments.grid import MAX_TRIALS, load_experiment
from compress.experiments.ledger import read_ledger
from compress.models.tensor_file import read_training_file
from compress.pipeline.run_dir import read_results
from compress.recipe.load import load_recipe, recipe_to_dict
from compress.runtime.errors import UserError
from compress.runtime.plain_files import MAX_DEPTH, MAX_JSON_BYTES, check_plain, read_text

RECIPE = json.loads(json.dumps(recipe_to_dict(load_recipe("default"))))
STAGE = {
    "name": "teach",
    "kind": "teach",
    "network": "resnet18",
    "params": 3000,
    "macs": 4000,
    "val": 0.5,
    "seconds": 1.0,
    "checkpoint": "stages/01-teach.pth",
    "image_size": 28,
    "epochs": 1,
}
MANIFEST = {
    "recipe": RECIPE,
    "seed": 0,
    "data": {"name": "fashion-mnist", "checksum": "0"},
    "status": "done",
    "stages": [STAGE, STAGE | {"name": "distill", "kind": "distill"}],
    "device": "cpu",
    "compiled": {"teach": True},
    "stage_seconds": [1.0, 2.0],
    "least_seconds": [0.5, 1.0],
}
TRIALS = {"seed=0": {"recipe": RECIPE, "error": None}}
LEDGER = {"trials": TRIALS, "rows": {"seed=0": {"lr": "0.1"}}}

# Readers of JSON by the name of the file that they read in a folder, and what it holds usually.
READERS: dict[str, tuple[Callable[[Path], object], str, Any]] = {
    "results of a run": (read_results, "run.json", MANIFEST),
    "recipe of a run": (lambda folder: load_recipe(str(folder / "run.json")), "run.json", MANIFEST),
    "ledger": (read_ledger, "experiment.json", LEDGER),
    "index of tensors": (
        lambda folder: read_training_file(folder / "a.safetensors.index.json"),
        "a.safetensors.index.json",
        {"weight_map": {"a": "b.safetensors"}},
    ),
    "names": (lambda folder: read_names(str(folder / "names.json")), "names.json", ["cat", "dog"]),
    "description of an exported file": (
        lambda folder: parse_description(read_text(folder / "d.json")),
        "d.json",
        {"classes": ["a"], "input_size": [3, 8, 8], "mean": [0.5], "std": [0.5]},
    ),
}


def read_within_bounds(read: Callable[[Path], object], folder: Path) -> None:
    """Read a file: it is accepted, or refused in one line; any other error fails the test."""
    try:
        read(folder)
    except UserError as error:
        assert len(str(error)) < 1000 + len(str(folder))


@pytest.mark.parametrize("reader", READERS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32))
def test_wrong_values_are_refused_in_one_line(reader: str, seed: int, tmp_path: Path) -> None:
    read, name, usual = READERS[reader]
    draw = random.Random(seed)
    for _ in range(draw.choice([1, 1, 2, 5])):
        usual = replaced(usual, draw)
    (tmp_path / name).write_text(json.dumps(usual))
    read_within_bounds(read, tmp_path)


TEXTS = {
    "nothing": b"",
    "zeros": b"\0" * 1000,
    "not UTF-8": b'{"a": "\xff"}',
    "half of a character": b'{"recipe": {"data": "\\ud800"}, "stages": []}',
    "nested lists": b"[" * 100_000 + b"]" * 100_000,
    "nested tables": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "thousands of digits": b'{"recipe": ' + b"9" * 5000 + b"}",
    "hundreds of digits": b'{"recipe": ' + b"9" * 4000 + b', "stages": []}',
    "a million values": b"[" + b"1," * 1_000_000 + b"1]",
    "too large": b" " * (MAX_JSON_BYTES + 1),
}


@pytest.mark.parametrize("reader", [name for name in READERS if name != "names"])
@pytest.mark.parametrize("text", TEXTS)
def test_hostile_json_is_refused(reader: str, text: str, tmp_path: Path) -> None:
    read, name, _ = READERS[reader]
    (tmp_path / name).write_bytes(TEXTS[text])
    with pytest.raises(UserError) as refused:
        read(tmp_path)
    assert len(str(refused.value)) < 500 + len(str(tmp_path))
    assert "\n" not in str(refused.value)


TOML = {
    "thousands of digits": "seed = " + "9" * 5000,
    "hexadecimal digits": "seed = 0x" + "f" * 5000,
    "nested lists": "title = " + "[" * 500 + "]" * 500,
    "nested tables": "title = " + "{a = " * 500 + "1" + "}" * 500,
    "a long dotted key": ".".join("a" * 3000) + " = 1",
    "a stage that is a number": "stages = [3]",
    "a stage of a list's kind": "stages = [{kind = [1]}]",
    "a date": "seed = 1979-05-27",
    "too large": "#" * 2**20 + "\ntitle = 'a'",
}


@pytest.mark.parametrize("name", TOML)
def test_hostile_toml_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    for ending in ("", "\n[teacher]\nname = 'resnet18'\n[student]\nname = 'resnet18'\n"):
        path.write_text(TOML[name] + ending)
        for read in (lambda file: load_recipe(str(file)), load_experiment):
            with pytest.raises(UserError, match=r"a\.toml: ") as refused:
                read(path)
            assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "keys",
    [
        "seeds = 1_000_000_000",
        "seeds = 0",
        "seeds = -1",
        f"seeds = {list(range(MAX_TRIALS + 1))}",
        "[grid]\n" + "".join(f"a{n} = [1, 2]\n" for n in range(60)),
        "seeds = 100\n" + "".join(f"[[rows]]\na = {n}\n" for n in range(11)),
    ],
)
def test_more_trials_than_anyone_runs_are_refused(keys: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(keys)
    with pytest.raises(UserError, match=r"a\.toml: "):
        plan_experiment(path)


def test_a_trial_lies_in_the_directory_of_its_experiment(tmp_path: Path) -> None:
    for name in ("../elsewhere", "/elsewhere", "a/b", "..", ".", "", "a\0"):
        (tmp_path / "experiment.json").write_text(json.dumps({name: TRIALS["seed=0"]}))
        with pytest.raises(UserError, match=r"experiment\.json: damaged"):
            read_ledger(tmp_path)


def test_a_name_that_is_not_utf8_is_refused_in_one_line(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff")
    for data in (f"folder:{tmp_path}/{name}", name):
        with pytest.raises(UserError, match="UTF-8"):
            load_recipe("default", {"data": data})


def test_a_table_that_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="not a file"):
        open_csv(pipe)


@given(
    st.recursive(
        st.sampled_from(VALUES),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=50,
    )
)
def test_plain_data_of_usual_size_is_accepted(value: object) -> None:
    check_plain(value)


def test_shared_parts_count_as_often_as_they_occur() -> None:
    laughs: list[Any] = ["ha"] * 10
    for _ in range(20):
        laughs = [laughs] * 10
    endless: list[Any] = []
    endless.append(endless)
    text = "a" * 2**20
    deep: Any = 1
    for _ in range(MAX_DEPTH + 1):
        deep = (deep,)
    for value in (laughs, endless, [text] * 100, deep, {"a": laughs}, [1] * 10**6, 1 << 2000):
        with pytest.raises(UserError):
            check_plain(value)
