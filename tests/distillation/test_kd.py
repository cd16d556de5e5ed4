"""The loss of knowledge distillation, against the paper's formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.data.batches import Batch
from compress.distillation.kd import KD, kd_loss
from compress.distillation.labels import Labels
from compress.training.classification import Classification
from compress.training.objective import Objective, total_loss

TASK = Classification(5)
GENERATOR = torch.Generator().manual_seed(7)
STUDENT = 3 * torch.randn(6, 5, generator=GENERATOR)
TEACHER = 3 * torch.randn(6, 5, generator=GENERATOR)
TARGETS = torch.rand(6, 5, generator=GENERATOR).softmax(1)


def probabilities(logits: Tensor, temperature: float = 1.0) -> np.ndarray:
    powers = np.exp(logits.numpy().astype(np.float64) / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def by_hand(student: Tensor, teacher: Tensor, temperature: float) -> float:
    p, q = probabilities(teacher, temperature), probabilities(student, temperature)
    return temperature**2 * float((p * np.log(p / q)).sum(axis=1).mean())


def cross_entropy(targets: np.ndarray) -> float:
    return float(-(targets * np.log(probabilities(STUDENT))).sum(axis=1).mean())


def batch() -> Batch:
    return Batch(STUDENT, TARGETS, torch.arange(6), 0)


def total(objective: Objective, progress: float = 0.0) -> float:
    """Return the loss of a student whose images are its logits."""
    return float(total_loss(objective(lambda images: images, batch(), progress)))


def kd(**options: float) -> float:
    defaults = {"temperature": 4.0, "alpha": 0.5}
    return total(KD(TASK, lambda _: TEACHER, **(defaults | options)))  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_the_loss_is_that_of_the_paper(temperature: float) -> None:
    found = float(kd_loss(STUDENT, TEACHER, temperature))
    assert found == pytest.approx(by_hand(STUDENT, TEACHER, temperature), rel=1e-4)


def test_equal_distributions_have_no_loss() -> None:
    # Logits matter up to a constant.
    assert float(kd_loss(TEACHER + 3, TEACHER, 4.0)) == pytest.approx(0, abs=1e-5)


def test_the_loss_is_not_symmetric() -> None:
    swapped = by_hand(TEACHER, STUDENT, 1.0)
    assert float(kd_loss(TEACHER, STUDENT, 1.0)) == pytest.approx(swapped, rel=1e-4)
    assert swapped != pytest.approx(by_hand(STUDENT, TEACHER, 1.0), rel=0.05)


def test_gradients_at_high_temperatures_are_those_of_half_the_squared_distance() -> None:
    """Equation 4 of the paper, times T², for centred logits: (student - teacher) / classes for each
    sample."""
    student = STUDENT.sub(STUDENT.mean(1, keepdim=True)).requires_grad_()
    teacher = TEACHER - TEACHER.mean(1, keepdim=True)
    torch.autograd.backward(kd_loss(student, teacher, 1000.0))
    assert student.grad is not None
    expected = (student.detach() - teacher) / 5 / 6
    torch.testing.assert_close(student.grad, expected, rtol=0.02, atol=1e-3)


def test_alpha_weighs_distillation_against_labels() -> None:
    labels, teacher = cross_entropy(TARGETS.numpy()), by_hand(STUDENT, TEACHER, 4.0)
    assert kd(alpha=0.0) == pytest.approx(labels, rel=1e-4)
    assert kd(alpha=1.0) == pytest.approx(teacher, rel=1e-4)
    assert kd(alpha=0.3) == pytest.approx(0.7 * labels + 0.3 * teacher, rel=1e-4)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_alpha_fades_to_zero(progress: float) -> None:
    fading = KD(TASK, lambda _: TEACHER, temperature=4.0, alpha=0.8, fade=True)
    found = total(fading, progress)
    assert found == pytest.approx(kd(alpha=0.8 * (1 - progress)), rel=1e-6)


def test_smoothing_mixes_the_targets_with_the_uniform_distribution() -> None:
    smoothed = cross_entropy(0.9 * TARGETS.numpy() + 0.1 / 5)
    assert kd(alpha=0.0, label_smoothing=0.1) == pytest.approx(smoothed, rel=1e-4)
    assert total(Labels(TASK, 0.1)) == pytest.approx(smoothed, rel=1e-4)


def test_labels_and_distillation_are_named_apart() -> None:
    losses = KD(TASK, lambda _: TEACHER, 4.0, 0.3)(lambda images: images, batch(), 0.0)
    assert list(losses) == ["labels", "distillation"]
    assert float(losses["labels"]) == pytest.approx(0.7 * cross_entropy(TARGETS.numpy()), rel=1e-4)
    distillation = 0.3 * by_hand(STUDENT, TEACHER, 4.0)
    assert float(losses["distillation"]) == pytest.approx(distillation, rel=1e-4)
