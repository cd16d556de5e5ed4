"""Single rows of benchmarks/accuracy.py, given our run."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.pipeline.pretrained import load_checkpoint


@pytest.mark.slow
def test_kd_rows_distill_from_our_teacher(setting: Any, tmp_path: Path) -> None:
    import rows

    step = setting.ending[0]
    step = replace(step, stage=replace(step.train, epochs=1, alpha=None, method="labels"))
    labels, distilled = (
        rows.learn(setting.final(), step, setting, tmp_path / f"{kd}.state", kd)[0].state_dict()
        for kd in (False, True)
    )
    assert not all(torch.equal(labels[key], distilled[key]) for key in labels)


@pytest.mark.slow
@pytest.mark.parametrize("fault", [None, ValueError("a\nb"), MemoryError(), OSError("full")])
def test_fasterai_s_faults_end_its_row_and_ours_end_the_run(
    fault: Exception | None, setting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rows

    asked: list[tuple[int, int]] = []

    def prune_and_distill(*given: Any) -> nn.Module:
        asked.append(given[-1])
        if fault:
            raise fault
        return setting.final()

    fake = SimpleNamespace(Views=lambda view, steps: None, prune_and_distill=prune_and_distill)
    monkeypatch.setitem(sys.modules, "by_fasterai", fake)
    if fault is None:
        assert rows.by_fasterai(setting, tmp_path).epochs == setting.epochs
    elif isinstance(fault, ValueError):
        with pytest.raises(rows.Refused, match="ValueError: a"):
            rows.by_fasterai(setting, tmp_path)
    else:
        with pytest.raises(type(fault)):
            rows.by_fasterai(setting, tmp_path)
    assert [sum(epochs) for epochs in asked] == [setting.epochs]

    with pytest.raises(rows.Refused, match="no teacher"):
        rows.by_fasterai(replace(setting, teacher=None), tmp_path)


@pytest.mark.slow
def test_fasterai_s_networks_see_images_in_their_own_sizes(
    setting: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rows

    seen: list[torch.Size] = []

    def note(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0].shape[2:])

    def prune_and_distill(student: nn.Module, teacher: nn.Module, *_: Any) -> nn.Module:
        for model in (student, teacher):
            model.register_forward_pre_hook(note)
            model(torch.zeros(2, 3, size, size))
        return student

    fake = SimpleNamespace(Views=lambda view, steps: None, prune_and_distill=prune_and_distill)
    monkeypatch.setitem(sys.modules, "by_fasterai", fake)
    size = setting.image_size
    teacher = replace(setting.teacher, image_size=2 * size)
    made = rows.by_fasterai(replace(setting, teacher=teacher), tmp_path).model
    teacher.model(torch.zeros(2, 3, size, size))
    made(torch.zeros(2, 3, 3 * size, 3 * size))
    assert [side for side, _ in seen] == [size, 2 * size, size, 3 * size]


@pytest.mark.slow
def test_a_slower_network_takes_relatively_longer(
    setting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only forward passes move the clock: 1 s for our network, 3 s for the other."""
    import bursts
    import rows

    now = [0.0]
    monkeypatch.setattr(bursts.time, "perf_counter", lambda: now[0])

    def taking(seconds: float) -> nn.Module:
        network = load_checkpoint(setting.result.model, setting.plan.recipe.student).model

        def advance(*_: object) -> None:
            now[0] += seconds

        network.register_forward_hook(advance)
        return network

    monkeypatch.setattr(rows.Setting, "final", lambda self: taking(1))
    monkeypatch.setattr(rows, "resnet18", lambda *shape: taking(3))
    monkeypatch.setattr(rows, "STEPS", 2)
    assert rows.relative_step(setting) == pytest.approx(3)
