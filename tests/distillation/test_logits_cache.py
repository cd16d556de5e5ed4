"""The logits cache: the same logits as the teacher's, computed once."""

from __future__ import annotations

import copy
import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import Tiny
from torch import Tensor, nn

from compress.data.batches import Batch, training_batches
from compress.data.dataset import Dataset
from compress.data.open_dataset import open_dataset
from compress.distillation import logits_cache
from compress.distillation.kd import KD
from compress.distillation.logits_cache import LogitsCache
from compress.distillation.method import Teacher
from compress.models.build import import_builder
from compress.pipeline import train_stage
from compress.pipeline.context import StageContext
from compress.pipeline.events import RunEvents
from compress.pipeline.plan import make_plan
from compress.pipeline.train_stage import build_trainer
from compress.recipe.load import load_recipe
from compress.recipe.stages import Augment, Train
from compress.runtime.device import has_fast_bfloat16, package_versions
from compress.runtime.files import PART
from compress.training.classification import Classification
from compress.training.forward import make_forward

CLASSES, BATCH = 4, 32
TASK = Classification(CLASSES)
AUGMENT = Augment(mixup=0.2, cutmix=1.0, mix_prob=0.5)


class CountingTeacher:
    """A linear network that counts the images it sees."""

    def __init__(self) -> None:
        self.weight = torch.randn(3 * 16 * 16, CLASSES, generator=torch.Generator().manual_seed(0))
        self.seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return images.flatten(1) @ self.weight


@pytest.fixture(scope="module")
def data(tiny: Tiny) -> Dataset:
    return open_dataset(f"folder:{tiny.data}", image_size=16)


def batches(data: Dataset, view: int) -> Iterator[Batch]:
    return training_batches(
        data, AUGMENT, encode_targets=TASK.encode_targets, seed=0, view=view, batch_size=BATCH
    )


def samples(data: Dataset) -> int:
    return data.train_count // BATCH * BATCH


def open_cache(
    data: Dataset, folder: Path, teacher: CountingTeacher | None = None
) -> tuple[LogitsCache, CountingTeacher]:
    teacher = teacher or CountingTeacher()
    return LogitsCache(teacher, folder, samples(data), CLASSES), teacher


def read_view(cache: LogitsCache, data: Dataset, view: int) -> Tensor:
    return torch.cat([cache(batch) for batch in batches(data, view)])


def test_computed_and_cached_logits_are_bit_identical(data: Dataset, tmp_path: Path) -> None:
    cache, teacher = open_cache(data, tmp_path)
    live = read_view(cache, data, view=0)
    exact = torch.cat([teacher(batch.images) for batch in batches(data, 0)])
    # Half precision keeps 11 bits.
    torch.testing.assert_close(live, exact, rtol=2**-11, atol=1e-6)
    later, unused = open_cache(data, tmp_path)
    assert torch.equal(read_view(later, data, view=0), live) and unused.seen == 0
    assert live.dtype == torch.float32


def test_logits_from_inference_mode_can_be_used_by_a_loss(data: Dataset, tmp_path: Path) -> None:
    linear, modes = CountingTeacher(), []

    def teacher(images: Tensor) -> Tensor:
        modes.append(torch.is_inference_mode_enabled())
        return linear(images)

    cache = LogitsCache(teacher, tmp_path, samples(data), CLASSES)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES))
    for batch in batches(data, 0):
        # Unlike cross-entropy, this loss keeps both for the backward pass.
        F.mse_loss(student(batch.images), cache(batch)).backward()
    assert modes and all(modes)
    assert all(p.grad is not None and p.grad.any() for p in student.parameters())


def test_the_teacher_sees_each_view_once(data: Dataset, tmp_path: Path) -> None:
    cache, teacher = open_cache(data, tmp_path)
    for view in (0, 1, 1, 0, 0, 1):
        read_view(cache, data, view)
    assert teacher.seen == 2 * samples(data)
    assert not torch.equal(read_view(cache, data, 0), read_view(cache, data, 1))


def test_a_view_that_comes_again_at_once_is_computed_once(data: Dataset, tmp_path: Path) -> None:
    cache, teacher = open_cache(data, tmp_path)
    first, second = read_view(cache, data, 0), read_view(cache, data, 0)
    assert torch.equal(first, second) and teacher.seen == samples(data)


def test_two_losses_on_a_batch_run_the_teacher_once(data: Dataset, tmp_path: Path) -> None:
    cache, teacher = open_cache(data, tmp_path)
    for batch in batches(data, 0):
        assert torch.equal(cache(batch), cache(batch))
    assert teacher.seen == samples(data) and len(list(tmp_path.glob("*.npy"))) == 1


def test_an_interrupted_view_is_computed_again_from_its_beginning(
    data: Dataset, tmp_path: Path
) -> None:
    whole = read_view(open_cache(data, tmp_path / "whole")[0], data, 0)
    cache, _ = open_cache(data, tmp_path / "cut")
    for _, batch in zip(range(3), batches(data, 0), strict=False):
        cache(batch)
    assert not list((tmp_path / "cut").glob("*"))
    later, teacher = open_cache(data, tmp_path / "cut")
    assert torch.equal(read_view(later, data, 0), whole) and teacher.seen == samples(data)


def test_a_stage_that_ends_inside_a_view_leaves_its_blocks_to_the_next(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits_cache, "BLOCK", 1)
    whole, teacher = read_view(open_cache(data, tmp_path / "whole")[0], data, 0), CountingTeacher()
    half = samples(data) // BATCH // 2
    # Steps of each stage, and batches seen so far.
    for steps, seen in ((half, half), (half, half), (2 * half, 2 * half)):
        cache, _ = open_cache(data, tmp_path / "stages", teacher)
        logits = [cache(batch) for _, batch in zip(range(steps), batches(data, 0), strict=False)]
        assert torch.equal(torch.cat(logits), whole[: steps * BATCH])
        assert teacher.seen == seen * BATCH


@pytest.mark.parametrize("block", [1, 4, 100])
def test_logits_do_not_depend_on_the_size_of_blocks(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    live = read_view(open_cache(data, tmp_path / "other")[0], data, 0)
    monkeypatch.setattr(logits_cache, "BLOCK", block)
    assert torch.equal(read_view(open_cache(data, tmp_path / "here")[0], data, 0), live)
    later, unused = open_cache(data, tmp_path / "here")
    assert torch.equal(read_view(later, data, 0), live) and unused.seen == 0


@pytest.mark.parametrize("fails", ["os.fsync", "pathlib.Path.open"])
def test_a_full_disk_costs_only_time(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = read_view(open_cache(data, tmp_path / "whole")[0], data, 0)
    cache, teacher = open_cache(data, tmp_path / "full")
    read_view(cache, data, 1)
    assert list((tmp_path / "full").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(fails, full)
        assert torch.equal(read_view(cache, data, 0), whole)
    assert torch.equal(read_view(cache, data, 0), whole) and teacher.seen == 3 * samples(data)
    # Nothing more is cached, and the run's own files get the room.
    assert not (tmp_path / "full").exists()


def test_half_written_files_of_a_kill_are_removed(data: Dataset, tmp_path: Path) -> None:
    torn = tmp_path / "earlier" / f".view-0-0.npy.abc{PART}"
    torn.parent.mkdir()
    torn.write_bytes(b"half")
    read_view(open_cache(data, tmp_path / "now")[0], data, 0)
    assert not torn.exists()


def test_a_view_entered_in_its_middle_is_not_cached(data: Dataset, tmp_path: Path) -> None:
    cache, teacher = open_cache(data, tmp_path)
    *_, last = batches(data, 0)
    torch.testing.assert_close(cache(last), teacher(last.images).half().float())
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize(
    "harm", ["empty", "cut short", "noise", "zip", "a bit", "of fewer", "of doubles"]
)
def test_a_damaged_file_is_ignored_and_written_again(
    data: Dataset, tmp_path: Path, harm: str
) -> None:
    whole = read_view(open_cache(data, tmp_path)[0], data, 0)
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
    later, teacher = open_cache(data, tmp_path)
    assert torch.equal(read_view(later, data, 0), whole) and teacher.seen == samples(data)
    assert path.read_bytes() == content


def test_views_beyond_the_capacity_are_computed_again(data: Dataset, tmp_path: Path) -> None:
    size = samples(data) * CLASSES * 2
    teacher = CountingTeacher()
    cache = LogitsCache(teacher, tmp_path / "a", samples(data), CLASSES, capacity=2 * size + 1000)
    first = [read_view(cache, data, view) for view in (0, 1, 2)]
    assert len(list(tmp_path.rglob("*.npy"))) == 2
    again = [read_view(cache, data, view) for view in (0, 1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert teacher.seen == 4 * samples(data)


def test_the_beginning_of_a_view_is_cached_where_capacity_ends_inside_it(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logits_cache, "BLOCK", 1)
    # A file has a header of 128 bytes, and a checksum of 4.
    blocks, block = samples(data) // BATCH, 2 * BATCH * CLASSES + 132
    capacity = block * (blocks + blocks // 2)

    def compute(teacher: CountingTeacher) -> list[Tensor]:
        cache = LogitsCache(teacher, tmp_path / "a", samples(data), CLASSES, capacity=capacity)
        return [read_view(cache, data, view) for view in (0, 1)]

    first, later = compute(CountingTeacher()), CountingTeacher()
    assert all(torch.equal(a, b) for a, b in zip(first, compute(later), strict=True))
    assert later.seen == BATCH * (blocks - blocks // 2)


def test_blocks_of_earlier_stages_make_way_the_oldest_first(data: Dataset, tmp_path: Path) -> None:
    size, teacher = samples(data) * CLASSES * 2, CountingTeacher()
    earlier, later = (
        LogitsCache(teacher, tmp_path / n, samples(data), CLASSES, capacity=3 * size + 1000)
        for n in "ab"
    )
    aged = set[Path]()
    order = [(earlier, 1), (earlier, 0), (earlier, 2), (later, 0)]
    for second, (cache, view) in enumerate(order, start=1):
        read_view(cache, data, view)
        # The system's clock is too coarse to tell the ages of files apart.
        for file in set(tmp_path.rglob("*.npy")) - aged:
            os.utime(file, ns=(second * 10**9, second * 10**9))
            aged.add(file)
    assert {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.npy")} == {
        "a/view-0-0.npy",
        "a/view-2-0.npy",
        "b/view-0-0.npy",
    }
    # A stage's own blocks stay: otherwise views would be gone before they come round again.
    for view in range(9):
        read_view(later, data, view)
    assert sorted(file.name for file in tmp_path.rglob("*.npy")) == [
        f"view-{view}-0.npy" for view in range(3)
    ]
    seen = teacher.seen
    for view in range(3):
        read_view(later, data, view)
    assert teacher.seen == seen


@pytest.fixture
def ctx(tiny: Tiny, tmp_path: Path) -> StageContext:
    """The context of the tiny recipe's last stage, without a teacher."""
    plan = make_plan(load_recipe(str(tiny.recipe)))
    return StageContext(plan, plan.steps[-1], tmp_path / "s", tmp_path, RunEvents())


def objective_of(student: nn.Module, stage: Train, ctx: StageContext) -> KD:
    objective = build_trainer(student, stage, ctx).objective
    assert isinstance(objective, KD)
    return objective


def folder_of(ctx: StageContext, stage: Train) -> Path:
    """Return the folder in which a stage caches its teacher's logits."""
    assert ctx.teacher is not None
    cache = objective_of(nn.Linear(3, 4), stage, ctx).logits
    assert isinstance(cache, LogitsCache)
    return cache.folder


def test_everything_that_changes_logits_changes_the_folder(
    ctx: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, net = Train(kind="finetune", epochs=1), nn.Linear(3, 4)
    ctx = replace(ctx, teacher=Teacher(net, 16))
    here, plan, data = folder_of(ctx, stage), ctx.plan, ctx.plan.data

    def with_recipe(**keys: int) -> StageContext:
        return replace(ctx, plan=replace(plan, recipe=replace(plan.recipe, **keys)))

    def with_data(other: Dataset) -> StageContext:
        return replace(ctx, plan=replace(plan, data=other))

    different = [
        folder_of(ctx, replace(stage, crop=(0.5, 1.0))),
        folder_of(ctx, replace(stage, mixup=0.1)),
        folder_of(with_recipe(seed=1), stage),
        folder_of(with_recipe(batch_size=16), stage),
        folder_of(replace(ctx, teacher=Teacher(nn.Linear(3, 4), 16)), stage),
        folder_of(replace(ctx, teacher=Teacher(nn.Sequential(net, nn.ReLU()), 16)), stage),
        folder_of(replace(ctx, teacher=Teacher(net, 8)), stage),
        folder_of(with_data(replace(data, train_images=data.val_images)), stage),
        folder_of(with_data(replace(data, image_size=8)), stage),
        folder_of(with_data(replace(data, grey=True)), stage),
        folder_of(with_data(data.normalized((0.5, 0.5, 0.5), data.std)), stage),
        folder_of(with_data(data.normalized(data.mean, (0.5, 0.5, 0.5))), stage),
    ]
    with monkeypatch.context() as patch:
        other = not has_fast_bfloat16(torch.device("cpu"))
        patch.setattr(train_stage, "has_fast_bfloat16", lambda device: other)
        different.append(folder_of(ctx, stage))
    with monkeypatch.context() as patch:
        versions = package_versions() | {"torch": "1.0"}
        patch.setattr(train_stage, "package_versions", lambda: versions)
        different.append(folder_of(ctx, stage))
    assert len({here, *different}) == len(different) + 1
    same = replace(stage, epochs=7, lr=0.3, alpha=0.9, temperature=2.0, fade=True, scale=0.5)
    assert folder_of(ctx, same) == here


def test_a_stage_caches_the_logits_of_its_own_teacher(ctx: StageContext) -> None:
    """The cache uses a copy whose batch norms are fused; the teacher itself stays as it is."""
    torch.manual_seed(0)
    net = import_builder("tinynets:teacher")(num_classes=CLASSES)
    # Batch norms far from the identity.
    for batch in batches(ctx.plan.data, 1):
        net(batch.images)
    exact = make_forward(copy.deepcopy(net).eval(), 16, exact=True)
    before = copy.deepcopy(net.state_dict())
    ctx = replace(ctx, teacher=Teacher(net, 16))
    stage = Train(kind="finetune", epochs=1)
    objective = objective_of(import_builder("tinynets:student")(num_classes=CLASSES), stage, ctx)
    with torch.no_grad():
        for batch in batches(ctx.plan.data, 0):
            expected = exact(batch.images)
            torch.testing.assert_close(objective.logits(batch), expected, rtol=0.02, atol=0.02)
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)
