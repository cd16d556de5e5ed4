"""Each method's loss, against its paper's formula written out in loops and float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from compress.distillation.attention import attention_loss
from compress.distillation.dkd import dkd_loss
from compress.distillation.features import map_loss, match_sizes
from compress.distillation.fitnets import hint_loss
from compress.distillation.fsp import fsp_loss, fsp_matrix
from compress.distillation.kd import kd_loss
from compress.distillation.overhaul import measure_margins, overhaul_loss
from compress.distillation.simultaneous import simultaneous_loss

RANDOM = np.random.default_rng(3)


def maps(*shape: int) -> Tensor:
    return torch.from_numpy(RANDOM.normal(size=shape)).float()


def plain(tensor: Tensor) -> np.ndarray:
    return tensor.numpy().astype(np.float64)


def squares(a: Tensor, b: Tensor) -> float:
    return float(((plain(a) - plain(b)) ** 2).mean())


def test_squared_errors() -> None:
    a, b, c, d = maps(2, 3, 4, 4), maps(2, 3, 4, 4), maps(2, 5, 2, 2), maps(2, 5, 2, 2)
    assert float(map_loss(a, b)) == pytest.approx(squares(a, b), rel=1e-5)
    assert float(hint_loss(a, b)) == pytest.approx(squares(a, b) / 2, rel=1e-5)
    assert float(simultaneous_loss([a, c], [b, d])) == pytest.approx(
        squares(a, b) + squares(c, d), rel=1e-5
    )


def test_the_larger_map_is_averaged_down() -> None:
    large, small = maps(2, 3, 4, 4), maps(2, 3, 2, 2)
    averaged = plain(large).reshape(2, 3, 2, 2, 2, 2).mean((3, 5))
    for pair in ((large, small), (small, large)):
        assert [m.shape for m in match_sizes(*pair)] == [small.shape] * 2
        assert float(map_loss(*pair)) == pytest.approx(
            ((averaged - plain(small)) ** 2).mean(), rel=1e-5
        )


def test_attention_transfer() -> None:
    def vector(image: np.ndarray) -> np.ndarray:
        channels, positions = range(len(image)), [(y, x) for y in range(3) for x in range(3)]
        sums = np.array([sum(image[c, y, x] ** 2 for c in channels) for y, x in positions])
        return sums / math.sqrt(sum(sums**2))

    # Widths may differ.
    student, teacher = maps(4, 2, 3, 3), maps(4, 7, 3, 3)
    by_hand = [
        (vector(s) - vector(t)) ** 2 for s, t in zip(plain(student), plain(teacher), strict=True)
    ]
    assert float(attention_loss(student, teacher)) == pytest.approx(np.mean(by_hand), rel=1e-4)
    # The scale of a map does not matter.
    assert float(attention_loss(3 * teacher, teacher)) == pytest.approx(0, abs=1e-10)


def test_fsp() -> None:
    def matrix(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        positions = [(y, x) for y in range(2) for x in range(2)]
        return np.array(
            [[sum(a[y, x] * b[y, x] for y, x in positions) / 4 for b in second] for a in first]
        )

    student, teacher = ([maps(2, width, 2, 2) for width in (3, 4, 2)] for _ in range(2))
    by_hand = 0.0
    for image in range(2):
        for i in (0, 1):
            ours, theirs = (
                matrix(plain(n[i][image]), plain(n[i + 1][image])) for n in (student, teacher)
            )
            by_hand += ((ours - theirs) ** 2).mean() / 2
    assert float(fsp_loss(student, teacher)) == pytest.approx(by_hand, rel=1e-4)
    large = maps(2, 3, 4, 4)
    pooled = plain(large).reshape(2, 3, 2, 2, 2, 2).max((3, 5))
    found = fsp_matrix(large, student[0])
    np.testing.assert_allclose(
        found[1].numpy(), matrix(pooled[1], plain(student[0][1])), rtol=1e-4, atol=1e-5
    )


def test_margins_are_the_means_of_negative_values() -> None:
    teacher = torch.tensor([[[[1.0, -2.0]], [[3.0, 4.0]]], [[[-4.0, 0.0]], [[5.0, 6.0]]]])
    assert measure_margins(teacher).flatten().tolist() == [-3.0, 0.0]


def test_overhaul() -> None:
    student, teacher = 2 * maps(3, 2, 2, 2), 2 * maps(3, 2, 2, 2)
    margin = torch.tensor([-0.5, -1.0]).view(1, 2, 1, 1)
    by_hand, hidden = 0.0, 0
    for place, s in np.ndenumerate(plain(student)):
        t = max(float(teacher[place]), float(margin[0, place[1], 0, 0]))
        if s <= t <= 0:
            hidden += 1
        else:
            by_hand += (s - t) ** 2 / 3
    assert hidden > 0
    assert float(overhaul_loss(student, teacher, margin)) == pytest.approx(by_hand, rel=1e-5)


def test_overhaul_on_known_values() -> None:
    student = torch.tensor([-3.0, -1.0, 2.0, -3.0]).view(1, 1, 2, 2)
    # The margin raises the first two to -2.
    teacher = torch.tensor([-9.0, -9.0, 5.0, 1.0]).view(1, 1, 2, 2)
    margin = torch.full((1, 1, 1, 1), -2.0)
    assert float(overhaul_loss(student, teacher, margin)) == 0 + 1 + 9 + 16


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(x / temperature) for x in logits]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dkd(temperature: float) -> None:
    student, teacher, target = 2 * maps(5, 4), 2 * maps(5, 4), torch.tensor([0, 3, 1, 1, 2])
    by_hand = 0.0
    for s, t, k in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        q, p = softmax(s, temperature), softmax(t, temperature)
        binary = p[k] * math.log(p[k] / q[k]) + (1 - p[k]) * math.log((1 - p[k]) / (1 - q[k]))
        others = [(p[i] / (1 - p[k]), q[i] / (1 - q[k])) for i in range(4) if i != k]
        by_hand += temperature**2 * (binary + 8 * sum(a * math.log(a / b) for a, b in others)) / 5
    found = float(dkd_loss(student, teacher, target, temperature, beta=8.0))
    assert found == pytest.approx(by_hand, rel=1e-4)


def test_kd_is_dkd_weighted_by_the_teachers_doubt() -> None:
    """Equation 5 of the paper: KD = TCKD + (1 - p of the target) · NCKD."""
    student, teacher, target = maps(1, 6), maps(1, 6), torch.tensor([2])
    doubt = 1 - float(teacher.softmax(1)[0, 2])
    assert float(dkd_loss(student, teacher, target, 1.0, doubt)) == pytest.approx(
        float(kd_loss(student, teacher, 1.0)), rel=1e-4
    )
