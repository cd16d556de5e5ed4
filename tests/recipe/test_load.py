"""Recipes: what they may say, and how they answer when they say it wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compress.recipe import load as recipes
from compress.recipe.budget import parse_amount as parse_budget
from compress.recipe.schema import Prune, Train
from compress.runtime.errors import UserError

PIPELINES = sorted((Path(__file__).parent.parent / "pipelines").glob("*.toml"))
Plain = dict[str, Any]

SMALL = """
budget = "100k"
[teacher]
name = "resnet18"
[student]
name = "resnet18"
[[stages]]
kind = "teach"
epochs = 20
[[stages]]
kind = "distill"
epochs = 5
[[stages]]
kind = "prune"
[[stages]]
kind = "finetune"
epochs = 30
compile = true
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@given(st.integers(1, 10**12))
def test_every_way_to_write_a_number_of_parameters_is_that_number(params: int) -> None:
    k, m = f"{params // 1000}.{params % 1000:03d}", f"{params // 10**6}.{params % 10**6:06d}"
    for text in (
        str(params),
        f"{params:,}",
        f"{params:_}",
        f" {params} ",
        k + "k",
        k + "K",
        m + "M",
        m + " m",
    ):
        assert parse_budget(text).of(student=7) == params


@given(st.integers(1, 9999), st.integers(1, 10**9))
def test_a_share_is_exactly_that_share_of_the_student(hundredths: int, student: int) -> None:
    assert parse_budget(f"{hundredths / 100}%").of(student) == max(
        1, hundredths * student // 10_000
    )


@pytest.mark.parametrize(
    "text",
    ["0", "0k", "0%", "100%", "101%", "-5", "1.5", "0.0001k", "1e5", "1,00", "10_0", "k", "%"],
)
@pytest.mark.parametrize("wrap", ["{}", " {}", "{} "])
def test_an_impossible_budget_is_refused(text: str, wrap: str) -> None:
    with pytest.raises(UserError, match="budget"):
        parse_budget(wrap.format(text))


@given(st.text(max_size=60))
@example("9" * 5000)
@example("٣k")
@example("1.k")
@example(".5M")
def test_any_text_is_a_budget_or_refused_in_one_line(text: str) -> None:
    try:
        budget = parse_budget(text)
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and len(str(error)) < 600
    else:
        assert (budget.number or 0) >= 1 or 0 < (budget.share or 0) < 1


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_a_shipped_recipe_loads_by_its_name_and_survives_the_trip_through_plain_data(
    path: Path,
) -> None:
    recipe = recipes.load_recipe(path.stem)
    assert recipe == recipes.load_recipe(str(path))
    assert (
        recipes.recipe_from_dict(json.loads(json.dumps(recipes.recipe_to_dict(recipe)))) == recipe
    )
    assert recipe.title and recipes.shipped_recipes()[path.stem].read_text() == path.read_text()


def test_the_patient_recipe_hears_each_view_many_times() -> None:
    """Its teacher takes far more time to answer than its students to learn."""
    learning = [
        s
        for s in recipes.load_recipe("fashion-mnist-best").stages
        if isinstance(s, Train) and s.kind != "teach"
    ]
    asked = sum(
        min(stage.views or stage.epochs, stage.epochs) for stage in learning if stage.alpha != 0
    )
    assert asked <= sum(stage.epochs for stage in learning) / 3


def test_there_is_a_default_recipe() -> None:
    assert "default" in recipes.shipped_recipes()


def set_in(*path: Any, to: Any) -> Callable[[Plain], None]:
    def change(plain: Plain) -> None:
        *outer, leaf = path
        for part in outer:
            plain = plain[part]
        plain[leaf] = to

    return change


def drop(*path: Any) -> Callable[[Plain], None]:
    def change(plain: Plain) -> None:
        *outer, leaf = path
        for part in outer:
            plain = plain[part]
        del plain[leaf]

    return change


KINDS = "a stage is one of teach, distill, prune, finetune"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (set_in("budgets", to=3), "budgets: unknown key (did you mean 'budget'?)"),
        (set_in("teacher", "nam", to="x"), "teacher.nam: unknown key (did you mean 'name'?)"),
        (
            set_in("stages", 0, "epoch", to=3),
            "stages.1.epoch: unknown key (did you mean 'epochs'?)",
        ),
        (
            set_in("stages", 2, "sampels", to=3),
            "stages.3.sampels: unknown key (did you mean 'samples'?)",
        ),
        (set_in("stages", 0, "importance", to="taylor"), "stages.1.importance: unknown key"),
        (
            set_in("stages", 1, "kind", to="distil"),
            f"stages.2.kind: unknown 'distil' (did you mean 'distill'?); {KINDS}",
        ),
        (set_in("stages", 1, "kind", to=3), f"stages.2.kind: unknown 3; {KINDS}"),
        (drop("stages", 1, "kind"), f"stages.2.kind: is missing: {KINDS}"),
        (drop("stages", 1, "epochs"), "stages.2.epochs: is missing"),
        (drop("teacher"), "teacher: is missing"),
        (drop("student", "name"), "student.name: is missing"),
        (set_in("student", "head", to=256), "student.head: must be a list, not 256"),
        (
            set_in("student", "head", to=["256"]),
            "student.head.1: must be a whole number, not '256'",
        ),
        (
            set_in("stages", 1, "freeze", to="head"),
            "stages.2.freeze: must be 'backbone', not 'head'",
        ),
        (set_in("teacher", to="resnet50"), "teacher: must be a table, not 'resnet50'"),
        (set_in("stages", to=3), "stages: must be a list, not 3"),
        (set_in("stages", 0, to="prune"), "stages.1: must be a table, not 'prune'"),
        (
            set_in("student", "stem", to="tiny"),
            "student.stem: must be 'imagenet', 'half' or 'small', not 'tiny'",
        ),
        (
            set_in("teacher", "pretrained", to=1),
            "teacher.pretrained: must be true, false or the name of weights in quotes, not 1",
        ),
        (set_in("stages", 0, "flip", to=1), "stages.1.flip: must be 'auto', true or false, not 1"),
        (
            set_in("stages", 0, "flip", to="no"),
            "stages.1.flip: must be 'auto', true or false, not 'no'",
        ),
        (set_in("stages", 0, "fade", to=1), "stages.1.fade: must be true or false, not 1"),
        (
            set_in("stages", 0, "compile", to="yes"),
            "stages.1.compile: must be 'auto', true or false, not 'yes'",
        ),
        (
            set_in("stages", 0, "epochs", to="three"),
            "stages.1.epochs: must be a number, not 'three'",
        ),
        (set_in("stages", 0, "epochs", to=True), "stages.1.epochs: must be a number, not true"),
        (set_in("stages", 0, "epochs", to=0), "stages.1.epochs: must be greater than 0, not 0"),
        (set_in("minutes", to="30"), "minutes: must be a number, not '30'"),
        (set_in("minutes", to=0), "minutes: must be greater than 0, not 0"),
        (set_in("stages", 0, "lr", to="1e-3"), "stages.1.lr: must be a number, not '1e-3'"),
        (
            set_in("stages", 0, "lr", to=float("nan")),
            "stages.1.lr: must be a finite number, not nan",
        ),
        (
            set_in("stages", 0, "optimizer", to="adam"),
            "stages.1.optimizer: must be 'sgd', 'adamw' or 'muon', not 'adam' (did you mean 'adamw'?)",
        ),
        (
            set_in("stages", 0, "crop", to=[0.5, 1.5]),
            "stages.1.crop.2: must be less than or equal to 1, not 1.5",
        ),
        (set_in("stages", 0, "crop", to=[0, 1]), "stages.1.crop.1: must be greater than 0, not 0"),
        (set_in("stages", 0, "crop", to=[0.5]), "stages.1.crop.2: is missing"),
        (
            set_in("stages", 0, "crop", to=[0.9, 0.5]),
            "stages.1.crop: must name the smaller share first, not [0.9, 0.5]",
        ),
        (set_in("data", to=3), "data: must be text in quotes, not 3"),
        (set_in("seed", to=-1), "seed: must be greater than or equal to 0, not -1"),
        (set_in("share", to=2), "share: must be less than or equal to 1, not 2"),
        (set_in("size", to=2000), "size: must be less than or equal to 1024, not 2000"),
        (set_in("budget", to=True), "budget: write 100k, 0.1M, 100_000 or 5%, not true"),
        (set_in("budget", to=1.5), "budget: write 100k, 0.1M, 100_000 or 5%, not 1.5"),
        (
            set_in("budget", to="5k%"),
            "budget '5k%' is not understood: write 100k, 0.1M, 100_000 or 5%",
        ),
        (set_in("budget", to=0), "budget '0' must be a whole number of parameters, 1 or more"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_said_in_one_line_with_its_place(
    change: Callable[[Plain], None], line: str, small: Path
) -> None:
    plain = tomllib.loads(small.read_text())
    change(plain)
    with pytest.raises(UserError) as caught:
        recipes.recipe_from_dict(plain, where="mine.toml")
    assert str(caught.value).removeprefix("mine.toml: ") == line


def test_more_mistakes_are_counted(small: Path) -> None:
    small.write_text(
        SMALL.replace('kind = "prune"', 'kind = "prune"\nsampels = 3').replace(
            "epochs = 5", "epochs = 0"
        )
    )
    with pytest.raises(UserError, match=r"stages\.2\.epochs: .* \(and 1 more\)"):
        recipes.load_recipe(str(small))


T, D, P, F = ("teach", "distill", "prune", "finetune")


@pytest.mark.parametrize(
    "kinds", [(T, D), (D,), (D, P), (T, D, P, F), (D, P, F, P, F), (D, F, P, P), (T, D, P, P, F, F)]
)
def test_stages_may_come_in_this_order(kinds: tuple[str, ...]) -> None:
    assert [stage.kind for stage in _of_kinds(kinds).stages] == list(kinds)


@pytest.mark.parametrize(
    "kinds",
    [
        (),
        (T,),
        (P,),
        (T, P),
        (D, T),
        (P, D),
        (F, D),
        (T, P, D),
        (T, D, T),
        (D, P, D),
        (T, T, D),
        (T, D, F, T),
    ],
)
def test_stages_in_an_order_that_makes_no_sense_are_refused(kinds: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"^recipe: stages: "):
        _of_kinds(kinds)


def _of_kinds(kinds: tuple[str, ...]) -> recipes.Recipe:
    stages = [{"kind": kind} | ({} if kind == P else {"epochs": 1}) for kind in kinds]
    networks = {"teacher": {"name": "a"}, "student": {"name": "b"}}
    return recipes.recipe_from_dict({"budget": "1k", "stages": stages} | networks)


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (
            {"name": "resnet18"},
            "stages.1.freeze: resnet18's first layers are random here: set pretrained = true",
        ),
        (
            {"name": "resnet18", "pretrained": True, "stem": "small"},
            "random here: leave its stem as it is",
        ),
        ({"name": "resnet18", "pretrained": True}, None),
        ({"name": "efficientnet_b0", "pretrained": True, "stem": "small"}, None),
        ({"name": "mine:net"}, None),
    ],
)
def test_what_has_learned_nothing_is_not_frozen(network: Plain, line: str | None) -> None:
    stages = [{"kind": "distill", "epochs": 1, "freeze": "backbone"}]
    plain = {"budget": "1M", "teacher": {"name": "resnet18"}, "student": network, "stages": stages}
    later = {"kind": "finetune", "epochs": 1, "freeze": "backbone"}  # by then it has
    if line is None:
        recipes.recipe_from_dict(plain | {"stages": [*stages, later]})
    else:
        with pytest.raises(UserError, match=re.escape(line)):
            recipes.recipe_from_dict(plain)
        recipes.recipe_from_dict(plain | {"stages": [{"kind": "distill", "epochs": 1}, later]})


def test_overrides_lie_over_the_files_own_keys(small: Path) -> None:
    changed = recipes.load_recipe(
        str(small),
        {"budget": "50k", "teacher.name": "resnet34", "seed": None, "student.stem": "small"},
    )
    assert (changed.budget, changed.teacher.name, changed.student.stem) == (
        "50k",
        "resnet34",
        "small",
    )
    assert (
        changed.seed == recipes.load_recipe(str(small)).seed and changed.student.name == "resnet18"
    )


@pytest.mark.parametrize(
    "key", ["budgte", "teacher.nmae", "seed.x", "teacher.name.x", "sttudent.name"]
)
def test_an_override_of_no_key_is_refused(small: Path, key: str) -> None:
    with pytest.raises(UserError, match=key.split(".")[0]):
        recipes.load_recipe(str(small), {key: "x"})


def test_quick_keeps_the_stages_and_shrinks_their_cost(small: Path) -> None:
    whole = recipes.load_recipe(str(small))
    quick = whole.quick()
    assert [stage.kind for stage in quick.stages] == [stage.kind for stage in whole.stages]
    trained = [stage for stage in quick.stages if isinstance(stage, Train)]
    assert [stage.epochs for stage in trained] == [5, 1, 7] and not any(
        stage.compile for stage in trained
    )
    assert (
        quick.limit == recipes.QUICK_IMAGES
        and recipes.load_recipe(str(small), {"max_images": 10}).quick().limit == 10
    )
    assert quick.teacher == whole.teacher and quick.budget == whole.budget
    assert [s for s in quick.stages if isinstance(s, Prune)] == [
        s for s in whole.stages if isinstance(s, Prune)
    ]


def test_compiling_is_left_open_or_said(small: Path) -> None:
    said = [
        recipes.load_recipe(str(small), {"finetune.compile": value})
        for value in ("auto", True, False)
    ]
    assert [recipe.stages[-1].compile for recipe in said] == ["auto", True, False]  # type: ignore[union-attr]
    assert [
        recipes.recipe_from_dict(json.loads(json.dumps(recipes.recipe_to_dict(recipe))))
        for recipe in said
    ] == said
    left = recipes.load_recipe(str(small)).stages[0]
    assert isinstance(left, Train) and left.compile == "auto"


def test_epochs_may_be_a_part_of_one_and_whole_ones_stay_whole(small: Path) -> None:
    small.write_text(
        SMALL.replace("epochs = 20", "epochs = 0.7").replace("epochs = 5", "epochs = 5.0")
    )
    read = recipes.load_recipe(str(small))
    assert json.dumps([s.epochs for s in read.stages if isinstance(s, Train)]) == "[0.7, 5, 30]"
    assert recipes.recipe_from_dict(json.loads(json.dumps(recipes.recipe_to_dict(read)))) == read
    assert [s.epochs for s in read.quick().stages if isinstance(s, Train)] == [0.7, 1, 7]


def test_an_unknown_recipe_names_the_nearest_and_a_broken_file_its_place(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'default'"):
        recipes.load_recipe("defualt")
    with pytest.raises(UserError, match="no recipe"):
        recipes.load_recipe(str(tmp_path))
    broken = tmp_path / "broken.toml"
    for text in (b"budget = ", b"\xff\xfe", b"[teacher\nname = 3", b"x = 1\nx = 2"):
        broken.write_bytes(text)
        with pytest.raises(UserError, match=r"broken\.toml: not TOML") as caught:
            recipes.load_recipe(str(broken))
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("module", ["compress", "compress.recipe.schema", "compress.cli.main"])
def test_reading_a_recipe_does_not_wait_for_torch(module: str) -> None:
    code = f"import sys, {module}, compress.recipe.schema as r; r.load('default'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
