"""Warnings about stages that learn nothing, and cuts from which a network does not recover."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Tiny

import compress
from compress.pipeline.events import RunEvents
from compress.pipeline.quality import compare_with_uncut, find_warning
from compress.pipeline.run_dir import StageResult, read_results

# Four classes: 40, 20, 20 and 20 % of 500 images.
TARGETS = torch.tensor([0, 0, 1, 2, 3] * 100)


def stages(*vals: tuple[str, float]) -> list[StageResult]:
    results = [
        StageResult(f"{kind} {n}", kind, "net", 1000 // n, 9, val, 1.0, f"{n}.pth")
        for n, (kind, val) in enumerate(vals, start=1)
    ]
    return [replace(result, test=result.val) for result in results]


def test_the_largest_class_is_no_achievement() -> None:
    warning = find_warning(stages(("teach", 0.41)), TARGETS)
    assert warning is not None and "teach 1" in warning and "40.0%" in warning
    assert find_warning(stages(("teach", 0.5)), TARGETS) is None


def test_a_higher_accuracy_on_few_images_is_not_called_lower() -> None:
    few = torch.tensor([0, 0, 1, 1])
    higher, equal = (find_warning(stages(("teach", val)), few) for val in (1.0, 0.5))
    assert higher is not None and "not clearly better" in higher and "of the 4 " in higher
    assert equal is not None and "no better" in equal


def test_a_cut_without_recovery_is_found() -> None:
    broken = stages(("distill", 0.9), ("prune", 0.5), ("finetune", 0.6))
    warning = find_warning(broken, TARGETS)
    assert warning is not None and "finetune 3" in warning and "distill 1 had 90.0%" in warning
    assert (
        find_warning(stages(("distill", 0.9), ("prune", 0.5), ("finetune", 0.85)), TARGETS) is None
    )


def test_the_final_network_is_compared_with_the_student_before_its_cuts() -> None:
    line = compare_with_uncut(stages(("distill", 0.9), ("prune", 0.5), ("finetune", 0.85)))
    assert line == "333 of 1,000 parameters: 85.00% of the test images, 90.00% before the cuts"
    assert compare_with_uncut(stages(("distill", 0.9))) is None


@pytest.mark.slow
def test_a_warning_is_kept_with_the_result_that_it_is_about(tiny: Tiny, tmp_path: Path) -> None:
    """A run that is killed right after a stage resumes with that stage's warning."""

    class Killed(RunEvents):
        def on_stage_end(self, *_: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress.run(tiny.recipe, out=tmp_path, device="cpu", events=Killed(), **{"teach.lr": 1e-9})
    manifest, results = read_results(tmp_path)
    assert [result.name for result in results] == ["teach"] == list(manifest["warnings"])
