"""Networks that are trained already: a teacher, or a student that is its own teacher."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from tiny import FILES, NAMES, Compress, Published, Tiny, own_model, weights
from torch import nn

import compress
from compress.models import checkpoint
from compress.models.checkpoint import Checkpoint
from compress.pipeline.plan import make_plan
from compress.pipeline.run_dir import read_results
from compress.pruning.pruner import prune
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec
from compress.runtime.errors import UserError


def assert_same_student(run: Path, other: Path) -> None:
    a, b = weights(run), weights(other)
    assert all(torch.equal(a[key], b[key]) for key in b)


@pytest.mark.slow
def test_a_given_teacher_is_used(run: Compress, tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    """The run's own teacher gives the same student; another teacher gives another student."""
    out = tmp_path / "run"
    given = run("run", tiny.recipe, "--teacher", finished / FILES[0], "--out", out)
    assert_same_student(out, finished)
    first, *_ = read_results(out)[1]
    theirs = read_results(finished)[1][0]
    assert (first.name, first.params, first.val, first.test) == (
        "teach",
        theirs.params,
        theirs.val,
        theirs.test,
    )
    assert (
        first.epochs == 0
        and "trained: " in given.out
        and not (out / "stages" / "01-teach.jsonl").exists()
    )

    other = own_model(finished / FILES[0])
    torch.nn.init.normal_(other.model[-1].weight)
    checkpoint.save(other, tmp_path / "other.pth")
    compress.run(str(tiny.recipe), teacher=str(tmp_path / "other.pth"), out=tmp_path / "differs")
    assert not torch.equal(
        weights(tmp_path / "differs" / FILES[1])["6.bias"], weights(finished / FILES[1])["6.bias"]
    )


def test_a_given_teacher_sees_images_as_it_learned_to(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    teacher = own_model(finished / FILES[0])
    checkpoint.save(Checkpoint(**(vars(teacher) | {"mean": (0.1, 0.2, 0.3)})), tmp_path / "t.pth")
    plan = make_plan(load_recipe(str(tiny.recipe), {"teacher": tmp_path / "t.pth"}))
    assert plan.data.mean == pytest.approx((0.1, 0.2, 0.3))


def test_a_teacher_that_no_stage_asks_is_mentioned(tiny: Tiny, finished: Path) -> None:
    alone = {f"{kind}.method": "labels" for kind in ("distill", "finetune")}
    given, line = (
        {"teacher": finished / FILES[0]},
        "teacher: no stage distills from tinynets:teacher",
    )
    noted = make_plan(load_recipe(str(tiny.recipe), given | alone)).notes
    assert any(note.startswith(line) for note in noted), noted
    for changes in (given, alone, given | {"finetune.method": "labels"}):
        noted = make_plan(load_recipe(str(tiny.recipe), changes)).notes
        assert not any("distills from" in note for note in noted)


def test_a_teacher_of_other_classes_is_refused(tiny: Tiny, finished: Path, tmp_path: Path) -> None:
    teacher = own_model(finished / FILES[0])
    checkpoint.save(
        Checkpoint(**(vars(teacher) | {"classes": ("a", "b", "c", "d")})), tmp_path / "t.pth"
    )
    with pytest.raises(UserError, match="its classes are not those of"):
        compress.run(str(tiny.recipe), teacher=tmp_path / "t.pth", out=tmp_path / "run")


@pytest.mark.slow
def test_a_trained_student_is_pruned_and_its_own_teacher(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    said = run(
        "run", tiny.recipe, "--student", finished / FILES[1], "--out", out, "--max-images", 64
    ).out
    results = read_results(out)[1]
    assert [r.name for r in results] == NAMES and said.count(f"trained: {finished / FILES[1]}") == 2
    assert results[0].params == results[1].params == 14_548 and results[-1].params <= 3000
    for file in FILES[:2]:
        a, b = weights(out / file), weights(finished / FILES[1])
        assert all(torch.equal(a[key], b[key]) for key in b)
    # A pruned network can be pruned again.
    further = tmp_path / "further"
    run(
        "run",
        tiny.recipe,
        "--student",
        out / "model.pth",
        "--budget",
        "1500",
        "--out",
        further,
        "--max-images",
        64,
    )
    assert 1000 < read_results(further)[1][-1].params <= 1500


def test_a_given_network_keeps_its_own_proportions(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    """Its original is the given network, and not the one that it was cut from."""
    kept, block, example = (
        own_model(finished / FILES[1]),
        importlib.import_module("tinynets")._block,
        torch.zeros(1, 3, 16, 16),
    )
    torch.manual_seed(0)
    flat = nn.Sequential(
        block(3, 16, 1), block(16, 16, 2), block(16, 16, 2), *kept.model[3:6], nn.Linear(16, 4)
    )
    checkpoint.save(Checkpoint(**(vars(kept) | {"model": flat})), tmp_path / "flat.pth")
    keys = {
        "prune.importance": "magnitude",
        "finetune.epochs": 0.5,
        "finetune.lr": 1e-9,
        "budget": 1000,
    }
    compress.run(
        str(tiny.recipe), student=tmp_path / "flat.pth", out=tmp_path / "run", max_images=64, **keys
    )
    plan = make_plan(load_recipe(str(tiny.recipe), keys | {"student": tmp_path / "flat.pth"}))
    targets = [step.target.params for step in plan.steps if step.target is not None]

    def widths(model: nn.Module) -> list[int]:
        return [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]

    def cut(original: nn.Module | None) -> list[int]:
        model = flat
        for target in targets:
            model = prune(model, example, target, original=original)
        return widths(model)

    its_own, of_the_other, of_each_round = map(cut, (flat, kept.model, None))
    assert widths(own_model(tmp_path / "run" / "model.pth").model) == its_own
    assert its_own not in (of_the_other, of_each_round) and len(targets) == 2


def test_given_networks_must_see_images_alike_and_are_what_the_recipe_calls_them(
    tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    kept = own_model(finished / FILES[1])
    checkpoint.save(Checkpoint(**(vars(kept) | {"mean": (0.1, 0.2, 0.3)})), tmp_path / "dim.pth")
    given = {"teacher": finished / FILES[0], "student": tmp_path / "dim.pth"}
    with pytest.raises(UserError, match="normalized differently"):
        make_plan(load_recipe(str(tiny.recipe), given))
    evil = Checkpoint(**(vars(kept) | {"network": ModelSpec("no_such_module:evil")}))
    checkpoint.save(evil, tmp_path / "evil.pth")
    plan = make_plan(
        load_recipe(str(tiny.recipe), {"student": tmp_path / "evil.pth", "budget": "3k"})
    )
    # The module that the file names was not imported.
    assert plan.recipe.student.name == "tinynets:student"
    with pytest.raises(UserError, match="its own teacher"):
        load_recipe(str(tiny.recipe), {"student": finished / FILES[1], "teacher": "resnet18"})


def test_builder_of_a_weights_file_need_not_be_in_the_recipe(
    run: Compress, tiny: Tiny, finished: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "named.toml"
    recipe.write_text(tiny.recipe.read_text().replace("tinynets:student", "resnet18"))
    words = ["run", recipe, "--student", finished / FILES[1], "--max-images", 64]
    refused = run(*words, "--out", tmp_path / "run", code=2)
    assert "--builder tinynets:student" in refused.err
    run(*words, "--builder", "tinynets:student", "--out", tmp_path / "run")
    assert read_results(tmp_path / "run")[1][-1].params <= 3000


def test_pretrained_weights_that_cannot_be_downloaded_name_what_else_works(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", fail)
    keys = {"student": "resnet18", "teacher": "resnet18", "pretrained": True}
    with pytest.raises(UserError, match=r"'resnet18'.*no network.*--teacher FILE.*--student FILE"):
        make_plan(load_recipe(str(tiny.recipe), keys))


@pytest.mark.slow
def test_pretrained_starts_both_networks_from_published_weights(
    tiny: Tiny, published: Published
) -> None:
    keys = {"student": "resnet18", "teacher": "resnet34", "pretrained": True}
    keys |= {"image_size": 32, "budget": "1M"}
    plan = make_plan(load_recipe(str(tiny.recipe), keys))
    assert plan.recipe.teacher.pretrained is plan.recipe.student.pretrained is True


@pytest.mark.parametrize("asked", [None, 24])
def test_a_trained_student_keeps_its_image_size(
    tiny: Tiny, finished: Path, asked: int | None
) -> None:
    """However large the files are, unless the recipe names a size."""
    recipe = str(tiny.variant("sized.toml", ("image_size = 16\n", "")))
    own = make_plan(load_recipe(recipe), "cpu").data.image_size
    student = finished / FILES[-1]
    plan = make_plan(
        load_recipe(recipe, {"student": student, "budget": "1500", "image_size": asked}), "cpu"
    )
    assert own == 32 and plan.data.image_size == (asked or 16)
