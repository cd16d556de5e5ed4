"""Runs of what people have in hand: data, modules and functions instead of names."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning as tp
import torchvision
from torch import Tensor, nn

import compress
from compress.pipeline.run_dir import read_results

SIDE, CLASSES = 12, 3


class Net(nn.Module):
    """A module that no name rebuilds: its width has no default."""

    def __init__(self, width: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images).flatten(1))
        return logits


def make_net(width: int = 12, seed: int = 0) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(width)


def make_data(count: int = 240, seed: int = 0) -> tuple[Any, Any]:
    """Return grey images, uint8 (N, H, W), with a bar across, along, or none; and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, count)
    images = random.integers(0, 60, (count, SIDE, SIDE), dtype=np.uint8)
    images[labels == 1, :, 4:7] = 220
    images[labels == 2, 4:7, :] = 220
    return images, labels


@cache
def trained_net() -> Net:
    net, (images, labels) = make_net(), make_data(seed=1)
    pixels, targets = torch.from_numpy(images)[:, None] / 255, torch.from_numpy(labels)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(pixels), targets).backward()
        optimizer.step()
    return net.eval()


def make_recipe(**keys: Any) -> dict[str, Any]:
    """Return a recipe of one cut for a run of a second."""
    fast = {"optimizer": "adamw", "lr": 5e-3}
    return {
        "budget": 250,
        "batch_size": 32,
        "teacher": make_net(16, seed=2),
        "student": make_net(),
        "stages": [
            {"kind": "teach", "epochs": 2, **fast},
            {"kind": "distill", "epochs": 2, **fast},
            {"kind": "prune", "samples": 32, "importance": "magnitude"},
            {"kind": "finetune", "epochs": 2, **fast},
        ],
    } | keys


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class StopAfter:
    """Callbacks that stop a run after so many epochs."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def on_epoch_end(self, epochs: float, history: list[dict[str, float]]) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_of_objects_resumes_bit_for_bit_and_refuses_others(tmp_path: Path) -> None:
    data, lines = make_data(), []
    whole = compress.run(
        make_recipe(), data=data, out=tmp_path / "a", callbacks={"log": lines.append}
    )
    assert whole.results[-1].params <= 250
    assert any("student" in line and "not trained" in line for line in lines)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            compress.run(make_recipe(), data=data, out=tmp_path / "b", callbacks=StopAfter(1))
    resumed = compress.run(make_recipe(), data=data, out=tmp_path / "b")
    one, two = whole.module.state_dict(), resumed.module.state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    # Equal objects that were made anew are the same run; others are not.
    before = digest(tmp_path / "a/model.pth")
    compress.run(make_recipe(), data=make_data(), out=tmp_path / "a")
    for key, changed in (
        ("data", {"data": make_data(seed=5)}),
        ("student", {"student": make_net(seed=7)}),
        ("teacher", {"teacher": make_net(16, seed=7)}),
    ):
        arguments = {"data": data} | changed
        with pytest.raises(compress.UserError, match=rf"\({key} differs\)"):
            compress.run(make_recipe(), out=tmp_path / "a", **arguments)
    assert digest(tmp_path / "a/model.pth") == before
    assert read_results(tmp_path / "a")[0]["recipe"]["data"].startswith("memory:")


def test_a_file_of_a_module_loads_with_one_of_its_architecture(tmp_path: Path) -> None:
    result = compress.run(make_recipe(), data=make_data(), out=tmp_path)
    images = torch.randn(2, 1, SIDE, SIDE)
    with torch.inference_mode():
        expected = result.module(images)
        for options in ({"model": make_net(seed=9)}, {"builder": lambda num_classes: make_net()}):
            assert torch.equal(compress.load(result.model, **options).model(images), expected)
    for wrong in (lambda: compress.load(result.model), lambda: compress.predict(result.model, [])):
        with pytest.raises(compress.UserError, match=r"Net.*model=") as refused:
            wrong()
        assert len(str(refused.value).splitlines()) == 1


def test_modules_and_data_are_not_changed(tmp_path: Path) -> None:
    data, student = make_data(), make_net().train()
    pixels, weights = data[0].copy(), {k: v.clone() for k, v in student.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    compress.run(make_recipe(student=student), data=data, out=tmp_path)
    assert student.training and np.array_equal(data[0], pixels)
    assert all(torch.equal(weights[key], value) for key, value in student.state_dict().items())
    assert expected.shape == (1,)


def test_fit_takes_a_trained_module_as_its_own_teacher() -> None:
    images, labels = make_data(seed=3)
    pixels, lines = images[:, None].astype(np.float32) / 255, []
    small = compress.fit(
        trained_net(),
        (pixels, labels),
        (pixels[:60], labels[:60]),
        budget="40%",
        recipe=make_recipe(teacher={"name": "resnet10"}),
        callbacks={"log": lines.append},
    )
    assert any("student" in line and "as trained" in line for line in lines)
    assert not small.training
    count = sum(p.numel() for p in small.parameters())
    assert count <= 0.4 * sum(p.numel() for p in trained_net().parameters())
    # Floats are taken as they come.
    with torch.inference_mode():
        found = small(torch.from_numpy(pixels)).argmax(1)
    assert float((found == torch.from_numpy(labels)).float().mean()) > 0.6


def test_what_a_module_is_taken_for_can_be_said(tmp_path: Path) -> None:
    recipe = make_recipe(student=trained_net(), teacher={"name": "resnet10"})
    lines: list[str] = []
    options = {"data": make_data(), "callbacks": {"log": lines.append}}
    untaught = [stage for stage in recipe["stages"] if stage["kind"] != "teach"]
    labels = [s | ({"method": "labels"} if "epochs" in s else {}) for s in untaught]
    table = recipe | {"stages": labels}
    result = compress.run(table, out=tmp_path / "a", trained=False, **options)
    assert result.results[0].epochs == 2
    result = compress.run(table, out=tmp_path / "b", **options)
    assert result.results[0].epochs == 0 and result.results[0].val > 0.9
    assert any("mean 0, 0, 0" in line for line in lines)


class Named(Net):
    def forward(self, images: Tensor) -> Any:
        return {"features": images, "logits": super().forward(images)}


@pytest.mark.parametrize("wrap", [nn.DataParallel, nn.Module.double, None])
def test_a_trained_module_counts_as_trained_however_it_is_wrapped(
    tmp_path: Path, wrap: Any
) -> None:
    net = Named(12)
    net.load_state_dict(trained_net().state_dict())
    student, lines = wrap(net) if wrap else net, []
    recipe = make_recipe(student=student, teacher={"name": "resnet10"})
    images, labels = make_data(90)
    options = {"data": (images, labels), "callbacks": {"log": lines.append}}
    result = compress.run(recipe, out=tmp_path, **options)
    assert result.results[0].epochs == 0 and any("Named is taken as trained" in x for x in lines)
    assert result.module(torch.rand(1, 1, SIDE, SIDE)).shape == (1, CLASSES)


def test_a_replaced_head_and_a_missing_teacher_are_told(tmp_path: Path) -> None:
    lines: list[str] = []
    recipe = make_recipe(student=Net(12, 10), teacher={"name": "resnet10"})
    recipe["stages"] = recipe["stages"][1:]
    compress.run(recipe, data=make_data(), out=tmp_path, callbacks={"log": lines.append})
    assert any("student: layer head" in line and "instead of 10" in line for line in lines)
    assert any("distill: method 'kd' has no teacher" in line for line in lines)


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    return nn.functional.mse_loss(student, teacher)


def first_weights(group: Any) -> Tensor:
    return tp.importance.GroupMagnitudeImportance(p=1)(group)


@pytest.mark.parametrize(
    ("method", "importance"),
    [
        (mse, first_weights),
        (lambda s, t, y: (s - t).abs().mean() + y.sum() * 0, tp.importance.LAMPImportance),
        ("dkd", tp.importance.GroupTaylorImportance()),
    ],
)
def test_methods_and_importances_may_be_functions(
    tmp_path: Path, method: Any, importance: Any
) -> None:
    data, options = make_data(), {"method": method, "importance": importance}
    result = compress.run(make_recipe(), data=data, out=tmp_path, **options)
    assert result.results[-1].params <= 250
    assert compress.run(make_recipe(), data=data, out=tmp_path, **options).results == result.results
    with pytest.raises(compress.UserError, match="stages differs"):
        other = {"method": lambda s, t: (s - t).sum()}
        compress.run(make_recipe(), data=data, out=tmp_path, **options | other)


def fail(student: Tensor, teacher: Tensor) -> Tensor:
    raise RuntimeError("no such loss")


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"method": fail}, "no such loss"),
        ({"method": lambda s, t: s - t}, "scalar"),
        ({"method": lambda s: s}, "teacher logits"),
        ({"method": 3}, "method: an object of type int"),
        ({"importance": 3}, "importance: an object of type int"),
        ({"callbacks": {"on_epoch": print}}, "on_epoch_end"),
        ({"callbacks": [object()]}, "object has no event"),
        ({"data": 42}, "int"),
        ({"data": Path("photos")}, "folder:photos"),
        ({"mean": [0.5]}, "std"),
        ({"student": make_net().features}, "Sequential"),
        ({"student": Net}, r"student.*Net\(…\)"),
        ({"student": nn.Sequential(nn.LazyConv2d(4, 3))}, "student.*one batch"),
        ({"teacher": print}, "teacher.*no module"),
        ({"student": nn.Sequential(make_net(), nn.Softmax(1))}, "without the softmax"),
        ({"student": Net(12, 10), "trained": True}, "head.*trained=True"),
        ({"stages": make_recipe()["stages"][1:]}, "teacher.*'teach' stage"),
    ],
)
def test_objects_that_cannot_be_used_are_refused_before_training(
    tmp_path: Path, keys: dict[str, Any], word: str
) -> None:
    with pytest.raises(compress.UserError, match=word) as refused:
        compress.run(make_recipe(), **{"data": make_data(), "out": tmp_path / "run"} | keys)
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "run").exists()


class ByLength(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.view(len(images), *images.shape[1:]))


def test_a_network_that_cannot_be_quantized_is_refused_before_training(tmp_path: Path) -> None:
    recipe = make_recipe()
    recipe["stages"] = [*recipe["stages"], {"kind": "quantize"}]
    with pytest.raises(compress.UserError, match=r"cannot be quantized.*x\.size\(0\)"):
        compress.run(recipe, data=make_data(), student=ByLength(12), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_line_says_that_test_images_are_those_of_training(tmp_path: Path) -> None:
    train, lines = make_data(60), []
    data = (train, make_data(30, seed=1), (train[0][:20], train[1][:20]))
    stages = [{"kind": kind, "epochs": 1} for kind in ("teach", "distill")]
    recipe = make_recipe(budget=None, stages=stages)
    compress.run(recipe, data=data, out=tmp_path / "run", callbacks={"log": lines.append})
    assert any("20 of 20 test images" in line for line in lines)


def test_a_network_of_torchvision_needs_nothing_to_load(tmp_path: Path) -> None:
    module = torchvision.models.resnet18(num_classes=2).eval()
    saved = compress.save(module, tmp_path / "a.pth", classes=["cat", "dog"], image_size=64)
    assert saved.network.name == "resnet18"
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        loaded = compress.load(tmp_path / "a.pth")
        assert torch.equal(loaded.model(images), module(images))
    assert loaded.classes == ("cat", "dog") and loaded.input_size == (3, 64, 64)


def test_any_module_can_be_saved_and_what_would_not_load_is_refused(tmp_path: Path) -> None:
    net, path = make_net(), tmp_path / "net.pth"
    compress.save(net, path, classes=3, image_size=SIDE, mean=[0.5], std=[0.5])
    loaded = compress.load(path, model=make_net(seed=1))
    assert loaded.mean == (0.5,) and loaded.input_size == (1, SIDE, SIDE)
    assert torch.equal(loaded.model.head.weight, net.head.weight)
    compress.save(loaded, tmp_path / "again.pth")
    for classes in ({"c": 2, "b": 1, "a": 0}, {2: "c", 0: "a", 1: "b"}):
        mapped = compress.save(net, path, classes=classes, image_size=SIDE, mean=[0.5], std=[0.5])
        assert mapped.classes == ("a", "b", "c")
    for options in ({}, {"classes": 4}, {"classes": 3, "network": "resnet18"}):
        with pytest.raises(compress.UserError):
            compress.save(net, tmp_path / "no.pth", image_size=SIDE, **options)
    assert not (tmp_path / "no.pth").exists()


@pytest.mark.parametrize("recipe", [["default"], 3, None])
def test_a_recipe_of_another_type_is_refused(recipe: Any) -> None:
    with pytest.raises(compress.UserError, match=rf"recipe: {type(recipe).__name__}"):
        compress.run(recipe)
