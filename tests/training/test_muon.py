"""Muon: orthogonal steps for convolutions, which keep their norm, and SGD for all else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from compress.training.muon import ROTATION, Muon, orthogonalize


@settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 60)), min_size=1, max_size=5),
    seed=st.integers(0, 9),
)
def test_singular_values_are_drawn_to_one_and_directions_kept(
    shapes: list[tuple[int, int]], seed: int
) -> None:
    torch.manual_seed(seed)
    bases = [
        (torch.linalg.qr(torch.randn(max(s), min(s)))[0], torch.rand(min(s)) * 0.9 + 0.1)
        for s in shapes
    ]
    matrices = [
        q * d if rows >= columns else (q * d).T
        for (q, d), (rows, columns) in zip(bases, shapes, strict=True)
    ]
    for matrix, found, (q, d) in zip(matrices, orthogonalize(matrices), bases, strict=True):
        assert found.shape == matrix.shape
        values = torch.linalg.svdvals(found)
        assert values.max() < 1.3 and (values.min() > 0.3 or len(d) > 20)
        # Its columns are q's, with other lengths.
        tall = found if found.shape == q.shape else found.T
        lengths = (q * tall).sum(0)
        torch.testing.assert_close(tall, q * lengths, atol=1e-3, rtol=0)
        # The result does not depend on matrices that are processed together with it.
        alone = orthogonalize([matrix])[0]
        torch.testing.assert_close(found, alone, atol=1e-4, rtol=0)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.BatchNorm2d(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


IMAGES, LABELS = (
    torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
    torch.arange(16) % 4,
)


def loss(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(IMAGES), LABELS)


@pytest.mark.parametrize("lr", [0.1, 1.0])
def test_convolutions_turn_by_the_same_angle_and_keep_their_norm(lr: float) -> None:
    model = net()
    convs = [p for p in model.parameters() if p.dim() == 4]
    before = [p.detach().clone() for p in convs]
    optimizer = Muon(model.parameters(), lr=lr)
    loss(model).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for old, new in zip(before, convs, strict=True):
        assert float(new.detach().norm()) == pytest.approx(float(old.norm()), rel=1e-5)
        moved = float((new.detach() - old).norm() / old.norm())
        assert 0.3 * ROTATION * lr < moved < 1.1 * ROTATION * lr


def test_all_else_is_torchs_sgd() -> None:
    """Nesterov's momentum is 0.9, and weight decay follows the parameter group."""
    ours, theirs = nn.Linear(6, 4), nn.Linear(6, 4)
    theirs.load_state_dict(ours.state_dict())
    groups = lambda m: [{"params": [m.weight], "weight_decay": 0.01}, {"params": [m.bias]}]  # noqa: E731
    pair = [
        (ours, Muon(groups(ours), lr=0.1)),
        (theirs, torch.optim.SGD(groups(theirs), lr=0.1, momentum=0.9, nesterov=True)),
    ]
    for _ in range(4):
        for model, optimizer in pair:
            optimizer.zero_grad()
            F.cross_entropy(model(IMAGES[:, :, 0, :2].flatten(1)), LABELS).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_layers_without_gradient_or_without_weights_stay_finite() -> None:
    """Gradients may be zero or missing.

    They are zero behind a scale of zero, with which residual branches begin; frozen layers have
    none.
    """
    model = net()
    nn.init.zeros_(model[1].weight)  # type: ignore[arg-type]
    model[3].weight.requires_grad_(False)  # type: ignore[union-attr]
    kept = [model[0].weight.detach().clone(), model[3].weight.detach().clone()]  # type: ignore[operator,union-attr]
    nothing = nn.Parameter(torch.zeros(2, 3, 1, 1))
    nothing.grad = torch.zeros_like(nothing)
    optimizer = Muon([*model.parameters(), nothing], lr=0.1)
    loss(model).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    torch.testing.assert_close(model[0].weight, kept[0])
    assert torch.equal(model[3].weight, kept[1])  # type: ignore[arg-type]
    assert all(bool(torch.isfinite(p).all()) for p in [*model.parameters(), nothing])


def test_it_learns() -> None:
    model = net()
    optimizer = Muon(model.parameters(), lr=0.2)
    first = float(loss(model).detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss(model).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss(model).detach()) < 0.3 * first
