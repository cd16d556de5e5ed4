"""Plans: resolved recipes, and recipes that are refused before any time is spent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import NAMES, SIDE, Compress, Tiny

import compress
from compress.models.build import build
from compress.models.cost import measure_cost
from compress.pipeline.plan import make_plan
from compress.pruning import unstructured
from compress.pruning.pruner import prune_to_minimum
from compress.recipe.load import load_recipe
from compress.recipe.schema import SmallData
from compress.runtime.errors import UserError

BAD_FLAGS: list[tuple[list[str], str]] = [
    (["--budget", "many"], "'many'"),
    (["--budget", "0"], "budget '0'"),
    (["--budget", "500k"], "nothing to prune"),
    (["--budget", "50"], "out of reach, the least for tinynets:student is"),
    (
        ["--budget", "3k", "--macs", "100"],
        "budget 3k parameters and 100 multiply-adds: out of reach",
    ),
    (["--student", "resnet81"], "did you mean 'resnet1"),
    (["--student", "nowhere:net"], "nowhere"),
    (
        ["--student", "tinynets:maps"],
        "'tinynets:maps' returns (1, 32, 2, 2) for one image; expected logits (1, 4)",
    ),
    (
        ["--teacher", "tinynets:pair"],
        "'tinynets:pair': the network returns tuple, with no logits in it",
    ),
    (["--stem", "small"], "is custom"),
    (
        ["--student", "squeezenet1_1"],
        "8×8 pixels: use larger ones, --image-size 64 or the recipe's key `image_size = 64`",
    ),
    (
        ["--student", "vit_b_16"],
        "it takes 224×224 pixels; set `image_size = 224` and `scale = 1`",
    ),
    (["--image-size", "3"], "image_size: must be greater than or equal to 4, not 3"),
    (["--teacher", "missing.pth"], "missing.pth: no such file"),
    (["--data", "fashion_mnist"], "did you mean 'fashion-mnist'"),
    (["--data", "folder:nowhere"], "no folder nowhere"),
    (["--max-images", "0"], "max_images"),
    (["--data-fraction", "2"], "data_fraction"),
    (["--seed", "-1"], "seed"),
    (["--minutes", "0"], "minutes: must be greater than 0, not 0"),
    (["--minutes", "-1"], "minutes: must be greater than 0, not -1"),
    (["--minutes", "nan"], "minutes: must be a finite number, not nan"),
    *([] if torch.cuda.is_available() else [(["--device", "cuda"], "no GPU here")]),
]


@pytest.mark.parametrize(
    ("flags", "words"), BAD_FLAGS, ids=lambda x: " ".join(x) if isinstance(x, list) else ""
)
def test_what_cannot_be_had_is_one_line(
    run: Compress, tiny: Tiny, tmp_path: Path, flags: list[str], words: str
) -> None:
    refused = run("run", tiny.recipe, "--out", tmp_path / "run", *flags, code=2)
    assert (
        refused.err.startswith("error: ") and refused.err.count("\n") == 1 and words in refused.err
    )
    assert refused.out == "" and not (tmp_path / "run").exists()


def test_images_are_resized_for_a_network_that_needs_larger_ones(tiny: Tiny) -> None:
    plan = make_plan(
        load_recipe(
            str(tiny.recipe), {"student": "squeezenet1_1", "budget": "100k", "image_size": 64}
        )
    )
    assert next(iter(plan.data.train.batches([torch.arange(2)]))).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("line", "stage"), [("batch_size = 32", "teach"), ("samples = 64", "prune")]
)
def test_single_images_that_end_as_single_pixels_are_refused(
    run: Compress, tiny: Tiny, tmp_path: Path, line: str, stage: str
) -> None:
    key = line.partition(" ")[0]
    recipe = tiny.variant(f"single-{key}.toml", (line, f"{key} = 1"))
    refused = run("run", recipe, "--image-size", 4, "--out", tmp_path / "run", code=2)
    assert (
        refused.err.startswith(f"error: {stage}: network 'tinynets:")
        and refused.err.count("\n") == 1
    )
    assert (
        refused.err.endswith(f": raise `{key}`\n")
        and refused.out == ""
        and not (tmp_path / "run").exists()
    )
    # Larger budgets leave something to measure.
    make_plan(load_recipe(str(recipe)))


def test_a_recipe_that_is_wrong_is_one_line(run: Compress, tiny: Tiny, tmp_path: Path) -> None:
    wrong = [
        ("defualt", "did you mean 'default'"),
        (
            tiny.variant("a.toml", ("samples = 64", 'importance = "tailor"')),
            "did you mean 'taylor'",
        ),
        (tiny.variant("b.toml", ("epochs = 2", "epoch = 2")), "epoch"),
        (tiny.variant("c.toml", ("title =", "title")), "not TOML"),
    ]
    for recipe, words in wrong:
        refused = run("run", recipe, "--out", tmp_path / "run", code=2)
        assert (
            refused.err.count("\n") == 1
            and words in refused.err
            and not (tmp_path / "run").exists()
        )


def test_fewer_images(tiny: Tiny) -> None:
    whole = len(make_plan(load_recipe(str(tiny.recipe))).data.train)
    assert whole == 198
    for overrides, images in (
        ({"max_images": 40}, 40),
        ({"data_fraction": 0.5}, 99),
        ({"max_images": 6000}, whole),
    ):
        assert len(make_plan(load_recipe(str(tiny.recipe), overrides)).data.train) == images
    assert len(make_plan(load_recipe(str(tiny.recipe)).quick()).data.train) == whole


def test_rounds_that_would_hardly_shrink_the_network_are_left_out(tiny: Tiny) -> None:
    def names(budget: str) -> list[str]:
        return [
            step.name for step in make_plan(load_recipe(str(tiny.recipe), {"budget": budget})).steps
        ]

    assert names("3k") == NAMES
    assert names("60%") == ["teach", "distill", "prune", "finetune"]


@pytest.mark.slow
def test_the_first_round_that_is_left_sees_images_as_the_student_did() -> None:
    """The default recipe distills at half the image size, and its last rounds use the full size."""
    for budget, rounds in (("100k", 5), ("5M", 2), ("9M", 1)):
        plan = make_plan(load_recipe("default", {"budget": budget}))
        prunes = [place for place, step in enumerate(plan.steps) if step.prune]
        before, first = (plan.steps[prunes[0] - back].image_size for back in (1, 0))
        assert len(prunes) == rounds and first == before == 14


def test_the_first_round_that_is_left_after_a_given_student_keeps_its_own_size() -> None:
    student = Path(__file__).parents[2] / "weights" / "fashion-mnist-100k.pth"
    plan = make_plan(
        load_recipe("default", {"student": str(student), "budget": "30k", "max_images": 100})
    )
    prunes = [step for step in plan.steps if step.prune]
    assert len(prunes) == 2 and prunes[0].image_size == 28


def test_images_are_enlarged_for_a_stage_that_asks_for_it(tiny: Tiny) -> None:
    """The tiny recipe has images of 16 pixels, and distills at half their size."""
    for least, sizes in ((24, (24, 8)), (12, (16, 8)), (16, (16, 8))):
        plan = make_plan(load_recipe(str(tiny.recipe), {"stages.1.min_image_size": least}))
        assert tuple(step.image_size for step in plan.steps[:2]) == sizes


def test_rounds_that_are_left_out_are_of_the_first_mode(tiny: Tiny) -> None:
    recipe = tiny.variant(
        "both.toml", ('kind = "prune"\nsamples', 'kind = "prune"\nmode = "weights"\nsamples')
    )
    for budget in ("3k", "60%"):
        steps = make_plan(load_recipe(str(recipe), {"budget": budget})).steps
        assert [step.prune.mode for step in steps if step.prune] == [
            "channels",
            "weights",
        ]


def test_single_weights_after_channels_reach_below_what_either_could(tiny: Tiny) -> None:
    recipe = tiny.variant(
        "both.toml", ('kind = "prune"\nsamples', 'kind = "prune"\nmode = "weights"\nsamples')
    )
    student = build(load_recipe(str(recipe)).student, 4)
    alone, channels = (
        unstructured.count_min_params(student),
        prune_to_minimum(student, torch.zeros(1, 3, SIDE, SIDE))[1].params,
    )
    assert (
        make_plan(load_recipe(str(recipe), {"budget": min(alone, channels) - 1})).limits.params
        == min(alone, channels) - 1
    )
    with pytest.raises(UserError, match="out of reach"):
        make_plan(load_recipe(str(recipe), {"budget": 40}))


def test_every_round_takes_as_large_a_share_as_the_one_before(tiny: Tiny) -> None:
    plan = make_plan(load_recipe(str(tiny.recipe), {"budget": "3k", "macs": "10%"}))
    whole = measure_cost(build(plan.recipe.student, 4), (3, SIDE, SIDE))
    first, last = [step.target for step in plan.steps if step.target is not None]
    assert last == plan.limits and first.as_dict().keys() == last.as_dict().keys() == {
        "params",
        "macs",
    }
    for axis, limit in last.as_dict().items():
        assert getattr(whole, axis) / first.as_dict()[axis] == pytest.approx(
            first.as_dict()[axis] / limit, rel=1e-3
        )


def test_photos_are_decoded_for_the_crops_of_the_stages_that_are_run(tiny: Tiny) -> None:
    """Few images take the stages of another recipe, whose crops may be smaller."""
    few = tiny.variant("few.toml", ("epochs = 3\n", "epochs = 3\ncrop = [0.2, 1.0]\n"))
    own = load_recipe(str(tiny.recipe))
    least = [
        make_plan(replace(own, small_data=small), "cpu").data.least_area
        for small in (None, SmallData(scratch=str(few)))
    ]
    assert least[0] > 0.2 and least[1] == 0.2


COUNTED = """
from tinynets import student as net

calls = []


def student(num_classes):
    calls.append(num_classes)
    print("Loaded pretrained weights")
    return net(num_classes)
"""


def test_a_function_is_called_once_for_a_plan_and_once_to_see_that_it_builds_the_same(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny.root / "countednets.py").write_text(COUNTED)
    import countednets

    named = {"student": "countednets:student", "teacher": "countednets:student"}
    plan = make_plan(load_recipe(str(tiny.recipe), named), "cpu")
    assert countednets.calls == [4, 4]
    assert capsys.readouterr().err.count("Loaded pretrained weights") == 1
    # The plan's networks were copies: another one has the function's own weights.
    one, other = (build(plan.recipe.student, 4).state_dict() for _ in range(2))
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_a_run_shows_what_a_function_prints_once(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny.root / "printingnets.py").write_text(COUNTED)
    named = {"student": "printingnets:student", "teacher": "printingnets:student"}
    compress.run(str(tiny.recipe), out=tmp_path / "run", epochs=1, **named)
    shown = capsys.readouterr()
    assert shown.err.count("Loaded pretrained weights") == 1 and shown.out == ""
