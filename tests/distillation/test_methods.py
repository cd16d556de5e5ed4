"""Distillation methods on two small networks, as plug-ins, and what a stage needs of them."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.data.batches import Batch
from compress.distillation.features import Tapped
from compress.distillation.method import FeatureInputs, LogitsInputs, Method, Teacher
from compress.distillation.objectives import (
    build_objective,
    check_method,
    needs_features,
    uses_logits,
    uses_teacher,
)
from compress.distillation.stagewise import Stagewise, split_blocks
from compress.recipe.registry import METHODS
from compress.recipe.stages import Train
from compress.runtime.errors import UserError
from compress.training.classification import Classification
from compress.training.forward import make_forward, make_teacher
from compress.training.objective import Forward, Losses, Objective, total_loss


def block(inner: int, outer: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride, 1), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)
    )


def net(width: int) -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 4))
    return nn.Sequential(block(3, width, 1), block(width, 2 * width, 2), *head)


def batch() -> Batch:
    torch.manual_seed(1)
    return Batch(torch.randn(8, 3, 8, 8), torch.eye(4)[torch.arange(8) % 4], torch.arange(8), 0)


def stage_with(method: str, **keys: Any) -> Train:
    return Train(kind="distill", epochs=1, method=method, **keys)


def set_up(method: str, **keys: Any) -> tuple[nn.Module, nn.Module, Objective]:
    """Return a teacher, a narrower student of smaller images, and the objective of `method`."""
    torch.manual_seed(0)
    teacher, student = net(6), net(4)
    forward = make_teacher(teacher, 8)

    def logits(batch: Batch) -> Tensor:
        return forward(batch.images)

    objective = build_objective(
        stage_with(method, **keys),
        Classification(4),
        Teacher(teacher, 8),
        (student, 6),
        lambda: logits,
        iter([batch()]),
    )
    return teacher, student, objective


def compute_losses(objective: Objective, student: nn.Module, progress: float) -> Losses:
    return objective(make_forward(student, 6), batch(), progress)


def own_loss(losses: Losses) -> Tensor:
    """Return the sum of a method's own losses: all but those of the base."""
    base = ("labels", "distillation")
    return total_loss({name: loss for name, loss in losses.items() if name not in base})


def own_parameters(objective: Objective) -> list[nn.Parameter]:
    return list(objective.parameters()) if isinstance(objective, nn.Module) else []


# The last one is for logits of pixels.
OF_IMAGES = [name for name in METHODS.builtin if name != "channelwise"]
each_method = pytest.mark.parametrize("method", OF_IMAGES)
each_method_with_a_loss = pytest.mark.parametrize(
    "method", [name for name in OF_IMAGES if METHODS.load(name).beta is not None]
)


@each_method
def test_gradients_reach_the_student_alone_and_no_hook_remains(method: str) -> None:
    teacher, student, objective = set_up(method)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student.train()
    reached: set[str] = set()
    for progress in (0.1, 0.5, 0.9):
        losses = compute_losses(objective, student, progress)
        assert all(loss.shape == () and bool(torch.isfinite(loss)) for loss in losses.values())
        torch.autograd.backward(total_loss(losses))
        reached |= {
            name
            for name, p in student.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0
        }
    # Batch norm cancels the biases of the convolutions.
    biases = {"0.0.bias", "1.0.bias"}
    assert reached | biases == {name for name, _ in student.named_parameters()}
    assert all(p.grad is not None for p in own_parameters(objective))
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    for module in (*teacher.modules(), *student.modules()):
        assert not module._forward_hooks and not module._forward_pre_hooks


@each_method_with_a_loss
def test_training_lowers_the_methods_own_loss(method: str) -> None:
    _, student, objective = set_up(method)
    parameters = [*student.parameters(), *own_parameters(objective)]
    optimizer = torch.optim.Adam(parameters, lr=0.01)
    student.train()
    history = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = own_loss(compute_losses(objective, student, 0.2))
        history.append(float(loss.detach()))
        torch.autograd.backward(loss)
        optimizer.step()
    assert 0 < history[-1] < 0.5 * history[0]


@each_method_with_a_loss
def test_beta_weighs_the_methods_own_loss(method: str) -> None:
    """The own loss is linear in beta, of which that of DKD weighs a part; the base stays."""
    own, base = [], []
    for beta in (1.0, 2.0, 3.0):
        _, student, objective = set_up(method, beta=beta)
        losses = compute_losses(objective, student, 0.2)
        own.append(float(own_loss(losses).detach()))
        base.append(losses.get("labels"))
    assert own[2] - own[1] == pytest.approx(own[1] - own[0], rel=1e-3)
    assert own[1] > own[0] > 0
    if method != "dkd":
        assert own[1] == pytest.approx(2 * own[0], rel=1e-5)
    assert base[0] is None or torch.equal(base[0], base[2])


def test_stagewise_trains_one_block_at_a_time() -> None:
    """With momentum, weight decay and batch norms."""
    _, student, objective = set_up("stagewise")
    assert isinstance(objective, Stagewise)
    assert objective.phases == pytest.approx((1 / 3, 2 / 3, 1))
    optimizer = torch.optim.SGD(
        [*student.parameters(), *own_parameters(objective)], lr=0.1, momentum=0.9, weight_decay=0.1
    )
    student.train()
    for progress, block in ((0.1, "0."), (0.3, "0."), (0.4, "1."), (0.9, "4."), (0.99, "4.")):
        before = {key: value.clone() for key, value in student.state_dict().items()}
        torch.autograd.backward(total_loss(compute_losses(objective, student, progress)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after = student.state_dict()
        changed = {key for key in before if not torch.equal(after[key], before[key])}
        assert changed == {key for key in before if key.startswith(block)}
        assert all(p.requires_grad for p in student.parameters())
        assert all(module.training for module in student.modules())


def test_stagewise_needs_a_classifier_behind_the_last_tap() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    student = Tapped(network, make_forward(network), ("0",), batch().images)
    with pytest.raises(UserError, match=r"taps: .*no classifier.*'0'"):
        split_blocks(student)


class Constant:
    """The objective of a plug-in on logits: the base, and a constant loss of beta."""

    def __init__(self, inputs: LogitsInputs) -> None:
        self.inputs = inputs

    def __call__(self, student: Forward, batch: Batch, progress: float) -> Losses:
        loss = student(batch.images).sum() * 0 + self.inputs.beta
        return self.inputs.base(student, batch, progress) | {"constant": loss}


class Scaled(nn.Module):
    """The objective of a plug-in on feature maps, with a parameter of its own."""

    def __init__(self, inputs: FeatureInputs) -> None:
        super().__init__()
        self.inputs = inputs
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, student: Forward, batch: Batch, progress: float) -> Losses:
        _, maps = self.inputs.student.run(batch.images, student)
        _, targets = self.inputs.teacher.run(batch.images)
        loss = sum(m.mean() - t.mean() for m, t in zip(maps, targets, strict=True))
        return {"scaled": self.inputs.beta * self.scale * loss}


CONSTANT = Method(beta=7.0, on_logits=Constant)
SCALED = Method(beta=2.0, on_features=Scaled)


@pytest.fixture
def plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register two methods as entry points, as an installed package would."""
    values = {"constant": f"{__name__}:CONSTANT", "scaled": f"{__name__}:SCALED"}
    entries = {name: EntryPoint(name, value, METHODS.group) for name, value in values.items()}
    found = {METHODS.group: entries}
    monkeypatch.setattr("compress.recipe.registry._plugins", lambda group: found.get(group, {}))


@pytest.mark.usefixtures("plug_ins")
def test_a_plug_in_on_logits_builds_the_objective() -> None:
    _, student, objective = set_up("constant")
    assert isinstance(objective, Constant)
    losses = compute_losses(objective, student, 0.0)
    assert list(losses) == ["labels", "constant"]
    assert float(losses["constant"].detach()) == 7.0
    _, student, objective = set_up("constant", alpha=0.5, beta=3.0)
    losses = compute_losses(objective, student, 0.0)
    assert list(losses) == ["labels", "distillation", "constant"]
    assert float(losses["constant"].detach()) == 3.0
    stage = stage_with("constant")
    assert uses_teacher(stage) and uses_logits(stage) and not needs_features(stage)


@pytest.mark.usefixtures("plug_ins")
def test_a_plug_in_on_feature_maps_builds_the_objective() -> None:
    _, student, objective = set_up("scaled", taps=("0", "1"))
    assert isinstance(objective, Scaled)
    assert objective.inputs.student.paths == objective.inputs.teacher.paths == ("0", "1")
    losses = compute_losses(objective, student, 0.0)
    torch.autograd.backward(total_loss(losses))
    assert list(losses) == ["scaled"]
    assert objective.scale.grad is not None and bool(objective.scale.grad)
    assert needs_features(stage_with("scaled")) and not uses_logits(stage_with("scaled"))


def test_the_cache_is_opened_once_and_only_if_logits_are_needed() -> None:
    def count(method: str, **keys: Any) -> int:
        opened = []

        def open_logits() -> Any:
            opened.append(method)
            return lambda batch: torch.zeros(len(batch.images), 4)

        stage, teacher, student = stage_with(method, **keys), Teacher(net(6), 8), (net(4), 6)
        examples = iter([batch()])
        build_objective(stage, Classification(4), teacher, student, open_logits, examples)
        return len(opened)

    assert count("labels") == count("kd", alpha=0.0) == count("attention") == 0
    assert count("kd") == count("dkd") == count("attention", alpha=0.5) == 1
    assert count("dkd", alpha=0.5) == 1


def test_methods_on_feature_maps_train_the_backbone() -> None:
    frozen = Train(kind="finetune", epochs=1, method="fsp", freeze="backbone")
    with pytest.raises(UserError, match=r"method 'fsp'.*remove freeze"):
        check_method(frozen, has_teacher=True)
    check_method(replace(frozen, method="kd"), has_teacher=True)


@pytest.mark.parametrize(
    ("method", "alpha", "has_teacher", "accepted"),
    [
        ("kd", None, True, True),
        ("dkd", None, True, True),
        ("labels", None, True, False),
        ("kd", 0.0, True, False),
        ("kd", None, False, False),
        ("attention", 0.5, True, False),
    ],
)
def test_stop_at_teacher_needs_the_logits_of_a_teacher(
    method: str, alpha: float | None, has_teacher: bool, accepted: bool
) -> None:
    stage = stage_with(method, alpha=alpha, stop_at_teacher=True)
    if accepted:
        check_method(stage, has_teacher)
        return
    with pytest.raises(UserError, match=f"method '{method}'.*remove stop_at_teacher"):
        check_method(stage, has_teacher)


@each_method_with_a_loss
def test_a_method_with_a_loss_of_its_own_needs_a_teacher(method: str) -> None:
    with pytest.raises(UserError, match=f"method '{method}' needs a teacher.*teacher.weights"):
        check_method(stage_with(method), has_teacher=False)
