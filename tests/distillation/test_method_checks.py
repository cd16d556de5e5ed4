"""Keys of a stage and its method: which ones suit each other, and what a stage needs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.logits_cache import CAPACITY
from compress.distillation.method import Method, Teacher
from compress.distillation.objectives import (
    build_objective,
    check_method,
    epochs_until_cached,
    needs_features,
    uses_logits,
    uses_teacher,
)
from compress.recipe.stages import Train
from compress.runtime.errors import UserError
from compress.training.classification import Classification
from compress.training.objective import total_loss

CLASSES = 4
BATCH = Batch(torch.randn(3, CLASSES), torch.eye(CLASSES)[:3], torch.arange(3), 0)


def make_stage(method: str, **keys: Any) -> Train:
    return Train(kind="distill", epochs=1, method=method, **keys)


# Method, keys that suit it, the key that does not.
WRONG: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("labels", {"freeze": "backbone", "compile": True}, {"alpha": 0.3}),
    ("labels", {"alpha": 0.0}, {"beta": 0.3}),
    ("kd", {"alpha": 0.3, "freeze": "backbone", "compile": True}, {"beta": 0.3}),
    ("kd", {}, {"taps": ("0",)}),
    ("kd", {"alpha": 0.0}, {"stop_at_teacher": True}),
    ("dkd", {"beta": 0.3, "stop_at_teacher": True}, {"taps": ("0",)}),
    ("attention", {"taps": ("0",), "beta": 0.3}, {"freeze": "backbone"}),
    ("attention", {"compile": "auto"}, {"compile": True}),
    ("attention", {"alpha": 0.5}, {"stop_at_teacher": True}),
]


@pytest.mark.parametrize(("method", "keys", "wrong"), WRONG)
def test_a_key_without_use_is_refused(
    method: str, keys: dict[str, Any], wrong: dict[str, Any]
) -> None:
    check_method(make_stage(method, **keys), has_teacher=True)
    with pytest.raises(UserError) as caught:
        check_method(make_stage(method, **keys | wrong), has_teacher=True)
    message, (key,) = str(caught.value), wrong
    assert f"method {method!r}" in message and key in message and "\n" not in message


@pytest.mark.parametrize(
    ("method", "keys", "words"),
    [
        ("dkd", {}, "needs a teacher"),
        ("overhaul", {}, "needs a teacher"),
        ("kd", {"stop_at_teacher": True}, "stop_at_teacher"),
    ],
)
def test_a_stage_without_its_teacher_is_refused(
    method: str, keys: dict[str, Any], words: str
) -> None:
    stage = make_stage(method, **keys)
    check_method(stage, has_teacher=True)
    with pytest.raises(UserError, match=f"method '{method}'.*{words}"):
        check_method(stage, has_teacher=False)


@pytest.mark.parametrize(
    ("method", "alpha", "teacher", "logits", "features"),
    [
        ("labels", None, False, False, False),
        ("kd", None, True, True, False),
        ("kd", 0.0, False, False, False),
        ("dkd", None, True, True, False),
        ("fitnets", None, True, True, True),
        ("fitnets", 0.0, True, False, True),
        ("attention", None, True, False, True),
        ("attention", 0.2, True, True, True),
    ],
)
def test_a_stage_needs_what_its_losses_need(
    method: str, alpha: float | None, teacher: bool, logits: bool, features: bool
) -> None:
    stage = make_stage(method, alpha=alpha)
    found = (uses_teacher(stage), uses_logits(stage), needs_features(stage))
    assert found == (teacher, logits, features)


@pytest.mark.parametrize(
    ("method", "keys", "samples", "epochs"),
    [
        ("kd", {"views": 3}, 100, 3),
        ("dkd", {"views": 2}, 100, 2),
        ("kd", {"views": 0}, 100, math.inf),
        ("kd", {"views": 3, "alpha": 0.0}, 100, math.inf),
        ("labels", {"views": 3}, 100, math.inf),
        ("attention", {"views": 3, "alpha": 0.5}, 100, math.inf),
        # Two bytes a logit: the capacity exactly, and one sample more.
        ("kd", {"views": 1}, CAPACITY // (2 * CLASSES), 1),
        ("kd", {"views": 1}, CAPACITY // (2 * CLASSES) + 1, math.inf),
    ],
)
def test_the_teacher_runs_until_all_logits_are_cached(
    method: str, keys: dict[str, Any], samples: int, epochs: float
) -> None:
    assert epochs_until_cached(make_stage(method, **keys), samples, CLASSES) == epochs


def test_the_gradient_of_kd_is_that_of_both_losses() -> None:
    teacher = torch.randn(3, CLASSES)

    def gradient(alpha: float) -> Tensor:
        images = BATCH.images.clone().requires_grad_()
        objective = build_objective(
            make_stage("kd", alpha=alpha),
            Classification(CLASSES),
            Teacher(nn.Identity(), 8),
            (nn.Identity(), 8),
            lambda: lambda batch: teacher,
            iter(()),
        )
        loss = total_loss(objective(lambda images: images, BATCH._replace(images=images), 0.0))
        return torch.autograd.grad(loss, images)[0]

    labels, distillation = gradient(0.0), gradient(1.0)
    assert float(labels.abs().max()) > 0 and float(distillation.abs().max()) > 0
    torch.testing.assert_close(gradient(0.25), 0.75 * labels + 0.25 * distillation)


@pytest.mark.parametrize(
    "fields", ["on_logits", "on_features", "beta", "beta on_logits on_features"]
)
def test_a_method_of_its_own_loss_has_a_beta_and_one_builder(fields: str) -> None:
    values = {"beta": 1.0, "on_logits": lambda inputs: None, "on_features": lambda inputs: None}
    with pytest.raises(UserError, match="beta"):
        Method(**{field: values[field] for field in fields.split()})  # type: ignore[arg-type]
