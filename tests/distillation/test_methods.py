"""Every method of distillation at work: on two small networks, and in whole runs on tiny data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Interrupted, Tiny
from torch import Tensor, nn

import compress
from compress.data.batches import Batch
from compress.distillation import labels
from compress.distillation.method import LogitsInputs, Method, Teacher
from compress.distillation.methods import build_objective
from compress.distillation.stagewise import Stagewise
from compress.models.build import build
from compress.pipeline.events import RunEvents
from compress.pipeline.plan import make_plan
from compress.recipe.load import load_recipe
from compress.recipe.model_spec import ModelSpec
from compress.recipe.registry import METHODS
from compress.recipe.schema import Train
from compress.runtime.errors import UserError
from compress.training.forward import make_forward, make_teacher
from compress.training.objective import Forward, Losses, Objective, total_loss
from compress.training.task import Classification

STAGES = """
[[stages]]
kind = "teach"
epochs = 1

[[stages]]
kind = "distill"
epochs = 2
scale = 0.5
{method}

[[stages]]
kind = "prune"
samples = 32

[[stages]]
kind = "finetune"
epochs = 2
lr = 0.05
ema = 0.9
{method}
"""


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


def set_up(method: str, **options: float) -> tuple[nn.Module, nn.Module, Objective]:
    """A teacher, a narrower student whose images are smaller, and what `method` makes of them."""
    torch.manual_seed(0)
    teacher, student = net(6), net(4)
    stage = Train(kind="distill", epochs=1, method=method, **options)  # type: ignore[arg-type]
    forward = make_teacher(teacher, 8)

    def logits(batch: Batch) -> Tensor:
        return forward(batch.images)

    objective = build_objective(
        stage,
        Classification(4),
        Teacher(teacher, 8),
        (student, 6),
        lambda: logits,
        iter([batch()]),
    )
    return teacher, student, objective


def compute_loss(objective: Objective, student: nn.Module, progress: float) -> Tensor:
    return total_loss(objective(make_forward(student, 6), batch(), progress))


def own(aim: Objective) -> list[nn.Parameter]:
    return list(aim.parameters()) if isinstance(aim, nn.Module) else []


@pytest.mark.parametrize("method", METHODS.builtin)
def test_gradients_reach_the_student_and_not_the_teacher_and_no_hook_stays(method: str) -> None:
    teacher, student, aim = set_up(method)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    student.train()
    reached: set[str] = set()
    for progress in (0.1, 0.5, 0.9):
        loss = compute_loss(aim, student, progress)
        assert loss.shape == () and bool(torch.isfinite(loss))
        torch.autograd.backward(loss)
        reached |= {
            name
            for name, p in student.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0
        }
    biases = {"0.0.bias", "1.0.bias"}  # of the convolutions: batch norm takes them out again
    assert reached | biases == {name for name, _ in student.named_parameters()}
    assert all(p.grad is not None for p in own(aim))
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    for network in (teacher, student):
        assert not any(
            module._forward_hooks or module._forward_pre_hooks for module in network.modules()
        )


@pytest.mark.parametrize(
    "method", [name for name in METHODS.builtin if METHODS.load(name).beta is not None]
)
def test_the_methods_own_loss_becomes_smaller(method: str) -> None:
    _, student, aim = set_up(method, alpha=0.0)
    optimizer = torch.optim.Adam([*student.parameters(), *own(aim)], lr=0.01)
    student.train()
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(compute_loss(aim, student, 0.2))
        torch.autograd.backward(losses[-1])
        optimizer.step()
    assert float(losses[-1].detach()) < 0.7 * float(losses[0].detach())


def test_beta_weighs_the_methods_own_loss() -> None:
    for method in ("simultaneous", "attention", "overhaul"):
        losses = []
        for beta in (1.0, 2.0, 3.0):
            _, student, aim = set_up(method, beta=beta)
            losses.append(float(compute_loss(aim, student, 0.5).detach()))
        assert (
            losses[2] - losses[1] == pytest.approx(losses[1] - losses[0], rel=1e-3)
            and losses[1] > losses[0]
        )


def test_stagewise_moves_one_block_at_a_time() -> None:
    """Momentum, weight decay and batch norms included."""
    _, student, aim = set_up("stagewise")
    assert isinstance(aim, Stagewise) and aim.phases == pytest.approx((1 / 3, 2 / 3, 1))
    optimizer = torch.optim.SGD(
        [*student.parameters(), *own(aim)], lr=0.1, momentum=0.9, weight_decay=0.1
    )
    student.train()
    for progress, block in ((0.1, "0."), (0.3, "0."), (0.4, "1."), (0.9, "4."), (0.99, "4.")):
        before = {key: value.clone() for key, value in student.state_dict().items()}
        torch.autograd.backward(compute_loss(aim, student, progress))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        moved = {
            key
            for key, value in student.state_dict().items()
            if not torch.equal(value, before[key])
        }
        assert moved == {key for key in before if key.startswith(block)}
        assert all(p.requires_grad for p in student.parameters()) and all(
            m.training for m in student.modules()
        )


def recipe_of(tiny: Tiny, file: Path, method: str) -> Path:
    file.write_text(
        tiny.recipe.read_text().partition("[[stages]]")[0] + STAGES.format(method=method)
    )
    return file


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.builtin)
def test_a_run_with_every_method(tiny: Tiny, tmp_path: Path, method: str) -> None:
    """The result of distilling, pruning and fine-tuning is the bare student."""
    recipe = recipe_of(tiny, tmp_path / "recipe.toml", f'method = "{method}"')
    result = compress.run(str(recipe), out=tmp_path / "run", max_images=72)
    assert [result.name for result in result.results] == ["teach", "distill", "prune", "finetune"]
    kept = torch.load(result.model, weights_only=True)["state_dict"]
    assert kept.keys() == build(ModelSpec("tinynets:student"), 4).state_dict().keys()
    assert result.results[-1].params <= 3000


class InterruptAfter(RunEvents):
    """Interrupts a run after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def on_epoch_end(self, epochs: int, history: list[dict[str, float]]) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted


@pytest.mark.slow
def test_projections_and_phases_survive_a_kill(tiny: Tiny, tmp_path: Path) -> None:
    for method in ("overhaul", "stagewise"):
        recipe = recipe_of(tiny, tmp_path / f"{method}.toml", f'method = "{method}"')
        whole = compress.run(str(recipe), out=tmp_path / f"{method}-whole", max_images=72)
        for _ in ("distill", "finetune"):  # after the first epoch of each
            with pytest.raises(Interrupted):
                compress.run(
                    str(recipe), out=tmp_path / method, max_images=72, events=InterruptAfter(2)
                )
        again = compress.run(str(recipe), out=tmp_path / method, max_images=72)
        a, b = (
            torch.load(result.model, weights_only=True)["state_dict"] for result in (whole, again)
        )
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_method_of_a_plug_in_builds_the_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant:
        def __init__(self, inputs: LogitsInputs) -> None:
            self.inputs = inputs

        def __call__(self, student: Forward, batch: Batch, progress: float) -> Losses:
            loss = student(batch.images).sum() * 0 + self.inputs.beta
            return self.inputs.base(student, batch, progress) | {"constant": loss}

    method = Method(beta=7.0, on_logits=Constant)
    monkeypatch.setattr(labels, "PLUG_IN", method, raising=False)
    monkeypatch.setitem(METHODS.builtin, "constant", "compress.distillation.labels:PLUG_IN")  # type: ignore[arg-type]
    _, student, objective = set_up("constant")
    losses = objective(make_forward(student, 6), batch(), 0.0)
    assert list(losses) == ["labels", "constant"] and float(losses["constant"].detach()) == 7.0


WRONG = [
    ('method = "fitnet"', "did you mean 'fitnets'"),
    ('method = "fitnets"\ntaps = ["0", "7"]', "the teacher has no layer '7'"),
    ('method = "attention"\ntaps = ["0=0.9"]', "the student has no layer '0.9' (did you mean '0."),
    ('method = "fsp"\ntaps = ["1"]', "taps: method 'fsp'"),
    ('method = "stagewise"\ntaps = ["0.1", "0.2"]', "nothing to train between '0.2'"),
    ('method = "attention"\ncompile = true', "remove compile"),
    ('taps = ["0"]', "remove taps"),
    ("beta = 2.0", "remove beta"),
    ('method = "labels"\nalpha = 0.3', "remove alpha"),
]


@pytest.mark.parametrize(("method", "words"), WRONG)
def test_what_makes_no_sense_is_refused_before_anything_trains(
    tiny: Tiny, tmp_path: Path, method: str, words: str
) -> None:
    recipe = recipe_of(tiny, tmp_path / "recipe.toml", method)
    with pytest.raises(UserError) as caught:
        make_plan(load_recipe(str(recipe)))
    assert words in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_method_of_features_needs_a_teacher(tiny: Tiny, tmp_path: Path) -> None:
    recipe = load_recipe(str(recipe_of(tiny, tmp_path / "recipe.toml", 'method = "fsp"')))
    with pytest.raises(UserError, match="method 'fsp' needs a teacher"):
        make_plan(replace(recipe, stages=recipe.stages[1:]))
