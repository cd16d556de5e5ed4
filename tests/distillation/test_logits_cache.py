"""The teacher's kept answers: the same as its live ones, and asked for once."""

from __future__ import annotations

import copy
import errno
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compress.distill import targets as keeping
from tiny import Tiny
from torch import Tensor, nn

from compress.data.batches import Batch, training_batches
from compress.data.dataset import Dataset, open_dataset
from compress.distillation.kd import KD
from compress.distillation.logits_cache import Targets
from compress.models.build import import_builder
from compress.pipeline import train_stage as learning
from compress.pipeline.context import Guide, StageContext
from compress.pipeline.train_stage import goal_of
from compress.recipe.load import load_recipe
from compress.recipe.schema import Augment, Train
from compress.runtime.device import has_fast_bfloat16, package_versions
from compress.runtime.files import PART
from compress.training.events import Events
from compress.training.trainer import forward

CLASSES, BATCH = 4, 32
AUGMENT = Augment(mixup=0.2, cutmix=1.0, mix=0.5)


class Teacher:
    """A linear network that counts how many images it was shown."""

    def __init__(self) -> None:
        self.weight = torch.randn(3 * 16 * 16, CLASSES, generator=torch.Generator().manual_seed(0))
        self.shown = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.shown += len(images)
        return images.flatten(1) @ self.weight


@pytest.fixture(scope="module")
def data(tiny: Tiny) -> Dataset:
    return open_dataset(f"folder:{tiny.data}", size=16)


def batches(data: Dataset, view: int) -> Iterator[Batch]:
    return training_batches(data, AUGMENT, seed=0, view=view, batch=BATCH)


def samples(data: Dataset) -> int:
    return len(data.train) // BATCH * BATCH


def targets(data: Dataset, folder: Path, teacher: Teacher | None = None) -> tuple[Targets, Teacher]:
    teacher = teacher or Teacher()
    return Targets(teacher, folder, samples(data), CLASSES), teacher


def answers(asked: Targets, data: Dataset, view: int) -> Tensor:
    return torch.cat([describe_budgets(batch) for batch in batches(data, view)])


def test_live_and_kept_answers_are_the_same_to_the_bit(data: Dataset, tmp_path: Path) -> None:
    asked, teacher = targets(data, tmp_path)
    live = answers(asked, data, view=0)
    exact = torch.cat([teacher(batch.images) for batch in batches(data, 0)])
    torch.testing.assert_close(live, exact, rtol=2**-11, atol=1e-6)  # half precision keeps 11 bits
    later, silent = targets(data, tmp_path)
    assert torch.equal(answers(later, data, view=0), live) and silent.shown == 0
    assert live.dtype == torch.float32


def test_the_teacher_answers_in_inference_mode_and_a_loss_may_use_it(
    data: Dataset, tmp_path: Path
) -> None:
    linear, modes = Teacher(), []

    def teacher(images: Tensor) -> Tensor:
        modes.append(torch.is_inference_mode_enabled())
        return linear(images)

    asked = Targets(teacher, tmp_path, samples(data), CLASSES)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES))
    for batch in batches(data, 0):
        F.mse_loss(
            student(batch.images), describe_budgets(batch)
        ).backward()  # unlike cross-entropy, it keeps both for backward
    assert modes and all(modes) and all(p.grad is not None for p in student.parameters())


def test_the_teacher_sees_each_view_once(data: Dataset, tmp_path: Path) -> None:
    asked, teacher = targets(data, tmp_path)
    for view in (0, 1, 1, 0, 0, 1):
        answers(asked, data, view)
    assert teacher.shown == 2 * samples(data)
    assert not torch.equal(answers(asked, data, 0), answers(asked, data, 1))


def test_a_view_that_stays_is_asked_for_once_too(data: Dataset, tmp_path: Path) -> None:
    asked, teacher = targets(data, tmp_path)
    first, second = answers(asked, data, 0), answers(asked, data, 0)
    assert torch.equal(first, second) and teacher.shown == samples(data)


def test_two_losses_that_ask_for_a_batch_ask_the_teacher_once(
    data: Dataset, tmp_path: Path
) -> None:
    asked, teacher = targets(data, tmp_path)
    for batch in batches(data, 0):
        assert torch.equal(describe_budgets(batch), describe_budgets(batch))
    assert teacher.shown == samples(data) and len(list(tmp_path.glob("*.npy"))) == 1


def test_a_view_cut_off_is_asked_for_again_from_its_beginning(
    data: Dataset, tmp_path: Path
) -> None:
    whole = answers(targets(data, tmp_path / "whole")[0], data, 0)
    asked, _ = targets(data, tmp_path / "cut")
    for _, batch in zip(range(3), batches(data, 0), strict=False):
        describe_budgets(batch)
    assert not list((tmp_path / "cut").glob("*"))
    later, teacher = targets(data, tmp_path / "cut")
    assert torch.equal(answers(later, data, 0), whole) and teacher.shown == samples(data)


def test_a_stage_that_ends_in_a_view_leaves_what_it_was_told_to_the_next(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "BLOCK", 1)
    whole, teacher = answers(targets(data, tmp_path / "whole")[0], data, 0), Teacher()
    half = samples(data) // BATCH // 2
    for steps, shown in (
        (half, half),
        (half, half),
        (2 * half, 2 * half),
    ):  # shown so far, in batches
        asked, _ = targets(data, tmp_path / "stages", teacher)
        told = [
            describe_budgets(batch)
            for _, batch in zip(range(steps), batches(data, 0), strict=False)
        ]
        assert (
            torch.equal(torch.cat(told), whole[: steps * BATCH]) and teacher.shown == shown * BATCH
        )


@pytest.mark.parametrize("block", [1, 4, 100])
def test_answers_are_the_same_whatever_is_written_together(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    live = answers(targets(data, tmp_path / "other")[0], data, 0)
    monkeypatch.setattr(keeping, "BLOCK", block)
    assert torch.equal(answers(targets(data, tmp_path / "here")[0], data, 0), live)
    later, silent = targets(data, tmp_path / "here")
    assert torch.equal(answers(later, data, 0), live) and silent.shown == 0


@pytest.mark.parametrize("fails", ["os.fsync", "tempfile.mkstemp"])
def test_a_full_disk_costs_only_time(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = answers(targets(data, tmp_path / "whole")[0], data, 0)
    asked, teacher = targets(data, tmp_path / "full")
    answers(asked, data, 1)
    assert list((tmp_path / "full").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(fails, full)
        assert torch.equal(answers(asked, data, 0), whole)
    assert torch.equal(answers(asked, data, 0), whole) and teacher.shown == 3 * samples(data)
    assert not (
        tmp_path / "full"
    ).exists()  # it does not try again, and leaves others what room there was


def test_what_a_kill_left_half_written_is_removed(data: Dataset, tmp_path: Path) -> None:
    torn = tmp_path / "earlier" / f".view-0-0.npy.abc{PART}"
    torn.parent.mkdir()
    torn.write_bytes(b"half")
    answers(targets(data, tmp_path / "now")[0], data, 0)
    assert not torn.exists()


def test_a_view_entered_in_its_middle_is_answered_but_not_kept(
    data: Dataset, tmp_path: Path
) -> None:
    asked, teacher = targets(data, tmp_path)
    *_, last = batches(data, 0)
    torch.testing.assert_close(describe_budgets(last), teacher(last.images).half().float())
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize(
    "harm", ["empty", "cut short", "noise", "zip", "a bit", "of fewer", "of doubles"]
)
def test_a_damaged_file_is_not_used_and_made_anew(data: Dataset, tmp_path: Path, harm: str) -> None:
    whole = answers(targets(data, tmp_path)[0], data, 0)
    (path,) = tmp_path.glob("*.npy")
    content = path.read_bytes()
    if harm.startswith("of"):
        array = np.zeros((samples(data) - 1, CLASSES), np.float16)
        np.save(path, array if harm == "of fewer" else np.zeros((samples(data), CLASSES)))
    else:
        damaged = {
            "empty": b"",
            "cut short": content[:-7],
            "noise": bytes(range(256)) * 9,
            "zip": b"PK\3\4" + content,
        }
        damaged["a bit"] = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
        path.write_bytes(damaged[harm])
    later, teacher = targets(data, tmp_path)
    assert torch.equal(answers(later, data, 0), whole) and teacher.shown == samples(data)
    assert path.read_bytes() == content


def test_views_beyond_the_room_there_is_are_asked_for_again(data: Dataset, tmp_path: Path) -> None:
    size = samples(data) * CLASSES * 2
    teacher = Teacher()
    asked = Targets(teacher, tmp_path / "a", samples(data), CLASSES, room=2 * size + 1000)
    first = [answers(asked, data, view) for view in (0, 1, 2)]
    assert len(list(tmp_path.rglob("*.npy"))) == 2
    again = [answers(asked, data, view) for view in (0, 1, 2)]
    assert all(
        torch.equal(a, b) for a, b in zip(first, again, strict=True)
    ) and teacher.shown == 4 * samples(data)


def test_where_room_ends_in_a_view_its_beginning_is_kept(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "BLOCK", 1)
    blocks, block = samples(data) // BATCH, 2 * BATCH * CLASSES + 132  # a file's head and checksum

    def describe_budgets(teacher: Teacher) -> list[Tensor]:
        room = block * (blocks + blocks // 2)
        kept = Targets(teacher, tmp_path / "a", samples(data), CLASSES, room=room)
        return [answers(kept, data, view) for view in (0, 1)]

    first, later = describe_budgets(Teacher()), Teacher()
    assert all(torch.equal(a, b) for a, b in zip(first, describe_budgets(later), strict=True))
    assert later.shown == BATCH * (blocks - blocks // 2)


def test_what_an_earlier_stage_left_makes_way_the_oldest_first(
    data: Dataset, tmp_path: Path
) -> None:
    size, teacher = samples(data) * CLASSES * 2, Teacher()
    earlier, later = (
        Targets(teacher, tmp_path / n, samples(data), CLASSES, room=3 * size + 1000) for n in "ab"
    )
    for asked, view in ((earlier, 1), (earlier, 0), (earlier, 2), (later, 0)):
        answers(asked, data, view)
        time.sleep(0.02)  # a file's age is told in steps of the system's clock
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.npy")} == {
        "a/view-0-0.npy",
        "a/view-2-0.npy",
        "b/view-0-0.npy",
    }
    for view in range(
        9
    ):  # its own do not: views that come round would else be gone before they are back
        answers(later, data, view)
    assert sorted(file.name for file in tmp_path.rglob("*.npy")) == [
        f"view-{view}-0.npy" for view in range(3)
    ]
    shown = teacher.shown
    for view in range(3):
        answers(later, data, view)
    assert teacher.shown == shown


def folder_of(ctx: StageContext, stage: Train) -> Path:
    assert ctx.guide is not None
    objective = goal_of(ctx.guide.model, stage, ctx)
    assert isinstance(objective, KD) and isinstance(objective.teacher, Targets)
    return objective.teacher.folder


def test_what_would_change_an_answer_changes_the_folder(
    tiny: Tiny, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(str(tiny.recipe))
    stage = Train(kind="finetune", epochs=1)
    net = nn.Linear(3, 4)
    ctx = StageContext(
        recipe, data, torch.device("cpu"), Events(), tmp_path / "s", tmp_path, Guide(net, 16)
    )
    here = folder_of(ctx, stage)
    other = nn.Linear(3, 4)
    different = [
        folder_of(ctx, replace(stage, crop=(0.5, 1.0))),
        folder_of(ctx, replace(stage, mixup=0.1)),
        folder_of(replace(ctx, recipe=replace(recipe, seed=1)), stage),
        folder_of(replace(ctx, recipe=replace(recipe, batch=16)), stage),
        folder_of(replace(ctx, guide=Guide(other, 16)), stage),
        folder_of(replace(ctx, guide=Guide(nn.Sequential(net, nn.ReLU()), 16)), stage),
        folder_of(replace(ctx, guide=Guide(net, 8)), stage),
        folder_of(replace(ctx, data=replace(data, checksum="0")), stage),
        folder_of(replace(ctx, data=replace(data, size=8)), stage),
        folder_of(replace(ctx, data=replace(data, mean=(0.5, 0.5, 0.5))), stage),
        folder_of(replace(ctx, data=replace(data, std=(0.5, 0.5, 0.5))), stage),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(learning, "has_fast_bfloat16", lambda device: not has_fast_bfloat16(device))
        different.append(folder_of(ctx, stage))
    with monkeypatch.context() as patch:
        patch.setattr(learning, "versions", lambda: package_versions() | {"torch": "1.0"})
        different.append(folder_of(ctx, stage))
    assert len({here, *different}) == len(different) + 1
    same = replace(stage, epochs=7, lr=0.3, alpha=0.9, temperature=2.0, fade=True, scale=0.5)
    assert folder_of(ctx, same) == here


def test_a_stage_hears_its_own_teacher(tiny: Tiny, data: Dataset, tmp_path: Path) -> None:
    """Its batch norms are fuse_conv_bn in what answers; the stage's own network stays as it is."""
    torch.manual_seed(0)
    net = import_builder("tinynets:teacher")(num_classes=CLASSES)
    for batch in batches(data, 1):  # batch norms far from the identity
        net(batch.images)
    exact, before = (
        forward(copy.deepcopy(net).eval(), 16, exact=True),
        copy.deepcopy(net.state_dict()),
    )
    ctx = StageContext(
        load_recipe(str(tiny.recipe)),
        data,
        torch.device("cpu"),
        Events(),
        tmp_path / "s",
        tmp_path,
        Guide(net, 16),
    )
    heard = goal_of(net, Train(kind="finetune", epochs=1), ctx)
    assert isinstance(heard, KD)
    with torch.no_grad():
        for batch in batches(data, 0):
            torch.testing.assert_close(
                heard.teacher(batch), exact(batch.images), rtol=0.02, atol=0.02
            )
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)
