"""Objectives as stages build them, against the papers' formulas in plain float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.method import Teacher
from compress.distillation.objectives import build_objective
from compress.recipe.registry import METHODS
from compress.recipe.stages import Train
from compress.training.classification import Classification
from compress.training.forward import make_forward, make_teacher
from compress.training.objective import total_loss

# Of the three blocks, each (B, C, H, W).
Maps = list[np.ndarray]

# Sides of the images that the teacher and the student take, in pixels.
LARGE, SMALL = 16, 8
ALPHA, TEMPERATURE = 0.3, 2.0
# The papers' values; 1 in the others.
BETA = {"dkd": 8.0, "attention": 1000.0, "overhaul": 1e-3}
PROGRESS = (1 / 24, 0.4, 0.9)


def net(width: int) -> nn.Sequential:
    def block(inner: int, outer: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inner, outer, 3, stride, 1), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)
        )

    blocks = (block(3, width, 1), block(width, 2 * width, 2), block(2 * width, 3 * width, 2))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3 * width, 4))


def mixed(seed: int) -> Batch:
    """Return a batch of samples of two classes each, more of the one than of the other."""
    random = torch.Generator().manual_seed(seed)
    classes = torch.eye(4)[torch.arange(6) % 4]
    targets = 0.7 * classes + 0.3 * classes.roll(1, 0)
    return Batch(torch.randn(6, 3, LARGE, LARGE, generator=random), targets, torch.arange(6), 0)


def run_blocks(
    network: nn.Sequential, images: Tensor, before_relu: bool = False
) -> tuple[np.ndarray, Maps]:
    """Return the logits of a copy in float64, and the outputs of its blocks."""
    network, maps = copy.deepcopy(network).double(), []
    for block in list(network)[:3]:
        end = block[1] if before_relu else block
        end.register_forward_hook(
            lambda module, inputs, output: maps.append(output.detach().clone().numpy())
        )
    with torch.no_grad():
        logits = network(images.double()).numpy()
    return logits, maps


def halved(maps: Maps, how: Callable[..., np.ndarray] = np.mean) -> Maps:
    """Reduce each 2×2 positions to one."""
    return [
        how(m.reshape(*m.shape[:2], m.shape[2] // 2, 2, m.shape[3] // 2, 2), axis=(3, 5))
        for m in maps
    ]


def through(layers: nn.ModuleList, maps: Maps) -> Maps:
    with torch.no_grad():
        pairs = zip(copy.deepcopy(layers).double(), maps, strict=True)
        return [layer(torch.from_numpy(m)).numpy() for layer, m in pairs]


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


def base(
    student: np.ndarray, teacher: np.ndarray, batch: Batch, progress: float, alpha: float = ALPHA
) -> dict[str, float]:
    """Return the loss on labels, and Hinton's KD (2015) whose alpha fades."""
    alpha *= 1 - progress
    labels = kd = 0.0
    for ours, theirs, target in zip(student, teacher, batch.targets.double().numpy(), strict=True):
        labels -= (target * np.log(softmax(ours))).sum() / len(student)
        soft = softmax(theirs / TEMPERATURE), softmax(ours / TEMPERATURE)
        kd += TEMPERATURE**2 * divergence(*soft) / len(student)
    return {"labels": (1 - alpha) * labels, "distillation": alpha * kd}


def dkd(student: np.ndarray, teacher: np.ndarray, batch: Batch) -> float:
    """Zhao et al. 2022, equation 7, for the class that a sample has most of."""
    found = 0.0
    for ours, theirs, target in zip(student, teacher, batch.targets.tolist(), strict=True):
        k = target.index(max(target))
        q, p = softmax(ours / TEMPERATURE), softmax(theirs / TEMPERATURE)
        tckd = divergence(np.array([p[k], 1 - p[k]]), np.array([q[k], 1 - q[k]]))
        nckd = divergence(np.delete(p, k) / (1 - p[k]), np.delete(q, k) / (1 - q[k]))
        found += TEMPERATURE**2 * (tckd + BETA["dkd"] * nckd) / len(student)
    return found


def squared(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(((ours - theirs) ** 2).mean())


def attention(maps: np.ndarray) -> np.ndarray:
    """Zagoruyko and Komodakis 2017: vec(Q) / ‖vec(Q)‖ of Q, the sum over channels of squares."""
    vectors = (maps**2).sum(1).reshape(len(maps), -1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def fsp(maps: Maps) -> Maps:
    """Yim et al. 2017, equation 1; the larger of two maps is max-pooled."""
    pairs = [(halved([first], np.max)[0], second) for first, second in pairwise(maps)]
    return [np.einsum("bmhw,bnhw->bmn", a, b) / (a.shape[2] * a.shape[3]) for a, b in pairs]


def overhaul(ours: np.ndarray, theirs: np.ndarray, example: np.ndarray) -> float:
    """Heo et al. 2019, equations 1 to 3, with margins from the teacher's maps of the example."""
    margins = [example[:, c][example[:, c] < 0].mean() for c in range(example.shape[1])]
    raised = np.maximum(theirs, np.array(margins)[None, :, None, None])
    costs = np.where((ours <= raised) & (raised <= 0), 0, (ours - raised) ** 2)
    return float(costs.sum()) / len(ours)


def by_hand(
    method: str,
    objective: Any,
    teacher: nn.Sequential,
    student: nn.Sequential,
    batch: Batch,
    example: Batch,
    progress: float,
) -> dict[str, float]:
    """Return the named losses of a method, in their order.

    Args:
        objective: has the method's projections.
        example: the batch on which overhaul measures its margins.
    """
    small = F.interpolate(batch.images.double(), (SMALL, SMALL), mode="bilinear", antialias=True)
    student = copy.deepcopy(student)
    if method == "stagewise":
        # Only the block of this phase is in training mode.
        for place, block in enumerate(list(student)[:3]):
            block.train(place == int(4 * progress))
    before_relu = method == "overhaul"
    teacher_logits, targets = run_blocks(teacher.eval(), batch.images, before_relu)
    logits, maps = run_blocks(student, small, before_relu)
    losses, beta = base(logits, teacher_logits, batch, progress), BETA.get(method, 1.0)
    if method != "fsp":
        targets = halved(targets)
    # The papers' second phase: the base, whose progress starts again at 0.
    second = base(logits, teacher_logits, batch, (progress - 0.25) / 0.75)
    match method:
        case "labels":
            return {"labels": base(logits, teacher_logits, batch, progress, alpha=0)["labels"]}
        case "kd":
            return losses
        case "dkd":
            own = dkd(logits, teacher_logits, batch)
            return losses | {"decoupled": min(240 * progress / 20, 1) * own}
        case "simultaneous":
            ours = through(objective.projections, maps)
            return losses | {"features": beta * sum(map(squared, ours, targets))}
        case "stagewise":
            # One phase for each block, and one for the classifier.
            phase = int(4 * progress)
            if phase == 3:
                return base(logits, teacher_logits, batch, 4 * progress - 3)
            ours = through(objective.projections, maps)
            return {"features": beta * squared(ours[phase], targets[phase])}
        case "fitnets":
            if progress >= 0.25:
                return second
            ours = through(nn.ModuleList([objective.regressor]), maps[1:2])
            return {"features": beta * squared(ours[0], targets[1]) / 2}
        case "attention":
            costs = map(squared, map(attention, maps), map(attention, targets))
            return losses | {"features": beta * sum(costs)}
        case "fsp":
            if progress >= 0.25:
                return second
            ours = fsp(through(objective.projections, maps))
            return {"features": beta * sum(map(squared, ours, fsp(targets)))}
        case "overhaul":
            _, examples = run_blocks(teacher, example.images, before_relu)
            ours = through(objective.projections, maps)
            costs = map(overhaul, ours, targets, examples)
            weighted = zip((0, 1, 2), (1 / 4, 1 / 2, 1), costs, strict=True)
            return losses | {f"features.{tap}": beta * w * cost for tap, w, cost in weighted}
    raise AssertionError(f"no formula for {method}")


@pytest.mark.parametrize("progress", PROGRESS, ids="{:.2f}".format)
@pytest.mark.parametrize("method", [m for m in METHODS.builtin if m != "channelwise"])
def test_the_named_losses_are_those_of_the_paper(
    method: str, progress: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.training.forward.has_fast_bfloat16", lambda device: False)
    torch.manual_seed(0)
    teacher, student, batch, example = net(5), net(4), mixed(1), mixed(2)
    # Running statistics far from the initial ones.
    teacher(mixed(3).images)
    student(mixed(3).images)
    alpha = 0.0 if method == "labels" else ALPHA
    stage = Train(
        kind="distill", epochs=1, method=method, alpha=alpha, temperature=TEMPERATURE, fade=True
    )
    forward = make_teacher(teacher, LARGE)
    objective = build_objective(
        stage,
        Classification(4),
        Teacher(teacher, LARGE),
        (student, SMALL),
        lambda: lambda batch: forward(batch.images),
        iter([example]),
    )
    student.train()
    losses = objective(make_forward(student, SMALL), batch, progress)
    expected = by_hand(method, objective, teacher, student, batch, example, progress)
    assert list(losses) == list(expected)
    found = {name: float(loss.detach()) for name, loss in losses.items()}
    assert found == pytest.approx(expected, rel=1e-4)
    total = float(total_loss(losses).detach())
    assert total == pytest.approx(sum(expected.values()), rel=1e-4)


def test_losses_are_added_in_their_order() -> None:
    """Floating-point addition is not associative: the order decides the last digits."""
    a, b, c = (torch.tensor(value) for value in (1e8, -1e8, 1.0))
    assert float(total_loss({"a": a, "b": b, "c": c})) == 1.0
    assert float(total_loss({"a": a, "c": c, "b": b})) == 0.0
